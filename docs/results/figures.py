"""Figures of the results."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from intervals import Results, find_cell, mean_interval
from trials import BUDGETS, CURVES, EXPERIMENTS

matplotlib.use("svg")
# Text stays text; the same results give the same file.
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ases"}
from matplotlib import pyplot

#: Experiments that have a figure.
FIGURES = ("curve", "words", "longer", "steps", "data")


def draw(name: str, results: Results, out: Path) -> None:
    """Draw an experiment as SVG, if it has a figure and any results."""
    if name not in FIGURES or not any(trial in results for trial in EXPERIMENTS[name].trials):
        return
    if name == "curve":
        figure, panels = pyplot.subplots(1, 3, figsize=(11, 4))
        sizes = [row for row in CURVES if row != "LLM CoT"]
        _draw_curves(panels[0], results, sizes, "test", "accuracy")
        _draw_curves(panels[1], results, sizes, "longer", "accuracy on longer problems")
        _draw_curves(panels[2], results, ["LLM CoT"], "test", "accuracy, LLM CoT")
        axes = panels[0]
    else:
        figure, axes = pyplot.subplots(figsize=(8, 4))
        _draw_cells(axes, name, results)
        axes.grid(alpha=0.3)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _draw_curves(axes: Any, results: Results, names: list[str], test: str, label: str) -> None:
    """Mean over seeds with interval, by budget; one colour per mode, one line style per row."""
    for name, style in zip(names, (":", "-", "--")):
        for mode, color in (("direct", "C0"), ("USM", "C1"), ("DSM", "C2")):
            row, marks = f"{name}, {mode}", []
            for n in BUDGETS if row in EXPERIMENTS["curve"].rows else ():
                if cell := find_cell(results, "curve", row, f"{n:,} updates", test):
                    marks.append((n, *mean_interval(cell.values)))
            if marks:
                x, mean, reach = np.array(marks).T
                look = dict(color=color, linestyle=style, marker="o", markersize=3, capsize=2)
                axes.errorbar(x, mean, yerr=np.nan_to_num(reach), label=row, **look)
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [f"{n:,}" for n in BUDGETS])
    axes.minorticks_off()
    axes.set(xlabel="updates of 2,048 tokens", ylabel=label, ylim=(0, None))
    axes.grid(alpha=0.3)


def _draw_cells(axes: Any, name: str, results: Results) -> None:
    """One mark with interval per cell; one faint dot per seed."""
    rows, columns = EXPERIMENTS[name].rows, EXPERIMENTS[name].columns
    for c, column in enumerate(columns):
        color, marks = f"C{c}", []
        for r, row in enumerate(rows):
            if cell := find_cell(results, name, row, column):
                place = r + 0.6 * ((c + 0.5) / len(columns) - 0.5)
                marks.append((place, *mean_interval(cell.values)))
                dots = [place] * len(cell.values)
                axes.plot(dots, cell.values, ".", color=color, alpha=0.3, markersize=4)
        places, means, reaches = np.reshape(marks, (-1, 3)).T
        style = dict(fmt="o", color=color, capsize=3, markersize=5, label=column)
        axes.errorbar(places, means, yerr=np.nan_to_num(reaches), **style)
    axes.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
    score = "accuracy; ROUGE-L of reports" if name == "data" else "accuracy"
    axes.set(ylabel=score, ylim=(0, 1), xlabel=EXPERIMENTS[name].title)
