"""Figures of the results."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from intervals import Results, find_cell, mean_interval
from trials import EXPERIMENTS

from ases.run.plot import need_pyplot, save_figure


def draw(name: str, results: Results, out: Path) -> None:
    """Draw an experiment as SVG, if it has a figure and any results."""
    experiment = EXPERIMENTS[name]
    if not experiment.figure or not any(trial in results for trial in experiment.trials):
        return
    pyplot = need_pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 4))
    if name == "losses":
        _draw_losses(axes, results)
    else:
        _draw_cells(axes, name, results)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, out)


def _draw_cells(axes: Any, name: str, results: Results) -> None:
    """One mark with interval per cell; one faint dot per seed."""
    experiment = EXPERIMENTS[name]
    rows, columns = list(experiment.rows), list(experiment.columns)
    for c, column in enumerate(columns):
        color = f"C{c}"
        shift = 0.6 * ((c + 0.5) / len(columns) - 0.5)
        places, means, reaches = [], [], []
        for r, row in enumerate(rows):
            cell = find_cell(results, name, row, column)
            if cell is None:
                continue
            mean, reach = mean_interval(cell.values)
            places.append(r + shift)
            means.append(mean)
            reaches.append(0 if math.isnan(reach) else reach)
            dots = [r + shift] * len(cell.values)
            axes.plot(dots, cell.values, ".", color=color, alpha=0.3, markersize=4)
        style = dict(fmt="o", color=color, capsize=3, markersize=5, label=column)
        axes.errorbar(places, means, yerr=reaches, **style)
    axes.set_xticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
    scores = {"accuracy": "accuracy", "score": "accuracy; ROUGE-L of reports"}
    axes.set(ylabel=scores[experiment.score], ylim=(0, 1), xlabel=experiment.title)


def _draw_losses(axes: Any, results: Results) -> None:
    """First seed: training loss (thin) and best validation loss so far (Figure 4)."""
    experiment = EXPERIMENTS["losses"]
    for column in experiment.columns:
        trial = experiment.cell("1,000 problems", column)[0][0]
        if trial not in results:
            continue
        result = results[trial]
        for model, curves in result["curves"].items():
            tokens = result["target_tokens"][model]
            seconds, loss = np.array(curves["training"]).T
            [line] = axes.plot(seconds, loss * tokens, linewidth=0.7, alpha=0.5)
            seconds, loss = np.array(curves["validation"]).T
            best = np.minimum.accumulate(loss) * tokens
            label = column if len(result["curves"]) == 1 else f"{column}: {model}"
            axes.plot(seconds, best, marker=".", color=line.get_color(), label=label)
    axes.set(xlabel="seconds", ylabel="nats per chain", yscale="log")
