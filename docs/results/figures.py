"""Figures of the results."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from intervals import Cell, Results, find_cell, mean_interval
from trials import BUDGETS, CURVES, EXPERIMENTS, MODES, STEPS

matplotlib.use("svg")
# Text stays text; the same results give the same file.
matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ases"}
matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans"]
from matplotlib import pyplot

#: Experiments that have a figure.
FIGURES = ("curve", "steps")


def draw(name: str, results: Results, out: Path) -> None:
    """Draw an experiment as SVG, if it has a figure and any results."""
    if name not in FIGURES or not any(trial in results for trial in EXPERIMENTS[name].trials):
        return
    if name == "curve":
        figure, panels = pyplot.subplots(1, 3, figsize=(12, 4))
        sizes = [row for row in CURVES if row != "LLM CoT"]
        for axes, names, test in zip(
            panels, (sizes, sizes, ["LLM CoT"]), ("test", "longer", "test")
        ):
            _draw_curves(axes, results, names, test)
        panels[0].set_title("word problems")
        panels[1].set_title("longer problems")
        panels[2].set_title("LLM CoT")
    else:
        figure, axes = pyplot.subplots(figsize=(7, 4))
        for n, column in enumerate(MODES):
            cells = {step: find_cell(results, "steps", f"{step}", column) for step in STEPS}
            _draw_line(axes, cells, column, f"C{n}")
        axes.set(xlabel="steps of a problem", ylabel="accuracy", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _draw_curves(axes: Any, results: Results, names: list[str], test: str) -> None:
    """One colour per mode, one line style per row."""
    for name, style in zip(names, (":", "-", "--")):
        for mode, color in (("direct", "C0"), ("USM", "C1"), ("DSM", "C2")):
            row = f"{name}, {mode}"
            if row in EXPERIMENTS["curve"].rows:
                budgets = {n: f"{n:,} updates" for n in BUDGETS}
                cells = {n: find_cell(results, "curve", row, b, test) for n, b in budgets.items()}
                _draw_line(axes, cells, row, color, style)
    axes.set_xscale("log")
    axes.set_xticks(BUDGETS, [f"{n:,}" for n in BUDGETS])
    axes.minorticks_off()
    axes.set(xlabel="updates of 2,048 tokens", ylabel="accuracy", ylim=(0, None))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="x-small")


def _draw_line(
    axes: Any, cells: dict[int, Cell | None], label: str, color: str, style: str = "-"
) -> None:
    """Means over seeds with their intervals, by x."""
    marks = [(x, *mean_interval(cell.values)) for x, cell in cells.items() if cell]
    if marks:
        x, mean, reach = np.array(marks).T
        look = dict(color=color, linestyle=style, marker="o", markersize=3, capsize=2)
        axes.errorbar(x, mean, yerr=np.nan_to_num(reach), label=label, **look)
