"""Figures of what the trials found."""

from pathlib import Path
from typing import Any

import numpy as np

from ases.experiments.intervals import Rows, finished, mean_interval, points, scores
from ases.experiments.trials import Experiment
from ases.run.plot import need_pyplot, save_figure


def draw(experiment: Experiment, results: dict[str, dict], out: Path) -> None:
    """An SVG of what was found, if anything was."""
    rows = finished(experiment, results)
    if not rows or experiment.kind == "scorers":
        return
    pyplot = need_pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 4))
    if experiment.kind == "losses":
        _draw_losses(axes, rows)
    elif experiment.kind == "axis":
        _draw_axis(axes, experiment, rows)
    elif experiment.kind == "sweep":
        _draw_sweep(axes, rows)
    else:
        _draw_rows(axes, rows)
    axes.grid(alpha=0.3)
    save_figure(figure, out)


def _draw_axis(axes: Any, experiment: Experiment, rows: Rows) -> None:
    """A line for each row; dashed what is of longer problems."""
    line: Any = None  # of the row before
    for name, own in points(experiment, rows).items():
        places = sorted(own)
        means, reaches = zip(*(mean_interval(own[x]) for x in places))
        style: dict = dict(capsize=3, label=name)
        if name.endswith(", longer"):
            style |= dict(color=line.get_color(), linestyle="--")
        line = axes.errorbar(places, means, yerr=np.nan_to_num(reaches), **style)[0]
    axes.set(xlabel=experiment.axis, ylabel="accuracy", ylim=(0, 1))
    if experiment.axis == "training problems":
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
    elif "," in experiment.axis:
        names = experiment.axis.split(", ")
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel("")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _draw_sweep(axes: Any, rows: Rows) -> None:
    """Accuracy on the left, BLEU (dashed) on the right, as in Figure 3."""
    right = axes.twinx()
    for name, found in rows.items():
        places = sorted({t.x for t, _ in found})
        at = [[(t, r) for t, r in found if t.x == x] for x in places]
        accuracy = [np.mean(scores(own, "test", "accuracy")) for own in at]
        bleu = [np.mean(scores(own, "test", "bleu")) for own in at]
        [line] = axes.plot(places, accuracy, marker="o", label=name)
        right.plot(places, bleu, "--", marker=".", color=line.get_color(), alpha=0.6)
    axes.set(xlabel="β", ylabel="accuracy", ylim=(0, 1), xticks=places)
    right.set(ylabel="BLEU (dashed)", ylim=(0, 100))
    axes.legend(loc="lower left")


def _draw_rows(axes: Any, rows: Rows) -> None:
    """A bar for each row, and one for its second try where it had one."""
    bars = []
    for name, found in rows.items():
        bars.append((name, found, "test"))
        if "test, second try" in found[0][1]["tests"]:
            bars.append((f"{name}, second try", found, "test, second try"))
    axes.figure.set_figheight(max(4, 0.3 * len(bars)))
    for i, (_, found, test) in enumerate(bars[::-1]):
        values = scores(found, test, "accuracy" if found[0][0].task == "mwp" else "rougeL")
        mean, reach = mean_interval(values)
        color = "tab:blue" if test == "test" else "tab:orange"
        axes.barh(i, mean, xerr=np.nan_to_num(reach), color=color, alpha=0.4, capsize=3)
        axes.plot(values, [i] * len(values), "k.", markersize=4)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars[::-1]])
    axes.set(xlabel="accuracy (mwp), ROUGE-L (pet); a dot is a seed", xlim=(0, 1))


def _draw_losses(axes: Any, rows: Rows) -> None:
    """Training losses of the first seed, and the best validation loss so far, over time."""
    for name, found in rows.items():
        _, result = found[0]
        for model, tokens in result.get("target_tokens", {}).items():
            label = name.removeprefix("mwp ") + ("" if model in name else f": {model}")
            _, seconds, losses = zip(*result["curves"][model])
            [line] = axes.plot(seconds, np.array(losses) * tokens, linewidth=0.7, alpha=0.5)
            _, seconds, losses = zip(*result["validation"][model])
            best = np.minimum.accumulate(losses) * tokens
            axes.plot(seconds, best, marker=".", color=line.get_color(), label=label)
    axes.set(xlabel="seconds", ylabel="nats a chain (a sub-model's share of them)", yscale="log")
    axes.legend(title="training (thin), best validation loss so far", fontsize=8)
