"""Figures of the results."""

from pathlib import Path
from typing import Any

import numpy as np
from intervals import Results, find_cell, mean_interval
from trials import EXPERIMENTS

from ases.run.plot import need_pyplot, save_figure

#: Experiments that have a figure.
FIGURES = ("words", "longer", "steps", "data", "encoder", "labels", "losses")


def draw(name: str, results: Results, out: Path) -> None:
    """Draw an experiment as SVG, if it has a figure and any results."""
    if name not in FIGURES or not any(trial in results for trial in EXPERIMENTS[name].trials):
        return
    figure, axes = need_pyplot().subplots(figsize=(8, 4))
    if name == "losses":
        _draw_losses(axes, results)
    else:
        _draw_cells(axes, name, results)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, out)


def _draw_cells(axes: Any, name: str, results: Results) -> None:
    """One mark with interval per cell; one faint dot per seed."""
    rows, columns = EXPERIMENTS[name].rows, EXPERIMENTS[name].columns
    for c, column in enumerate(columns):
        color, marks = f"C{c}", []
        for r, row in enumerate(rows):
            cell = find_cell(results, name, row, column)
            if cell:
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


def _draw_losses(axes: Any, results: Results) -> None:
    """First seed: training loss (thin) and best validation loss so far (Figure 4)."""
    experiment = EXPERIMENTS["losses"]
    for column in experiment.columns:
        result = results.get(experiment.cell("1,000 problems", column)[0][0], {"curves": {}})
        for model, curves in result["curves"].items():
            tokens = result["target_tokens"][model]
            seconds, loss = np.array(curves["training"]).T
            [line] = axes.plot(seconds, loss * tokens, linewidth=0.7, alpha=0.5)
            seconds, loss = np.array(curves["validation"]).T
            best = np.minimum.accumulate(loss) * tokens
            label = column if len(result["curves"]) == 1 else f"{column}: {model}"
            axes.plot(seconds, best, marker=".", color=line.get_color(), label=label)
    axes.set(xlabel="seconds", ylabel="nats per chain", yscale="log")
