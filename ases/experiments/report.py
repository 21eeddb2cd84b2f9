"""Tables and figures of what the trials found, and the intervals that say what they are worth.

A mean over seeds stands with the 95 % interval of Student's t; a difference between two rows, with
the bootstrap over seeds and problems: of the same seed, two rows had the same problems. With a
single seed it is over problems alone, and says nothing of what another seed would give.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ases.experiments.mistakes import KINDS
from ases.experiments.trials import STEPS, Experiment, Trial
from ases.run.plot import need_pyplot, save_figure
from ases.segmentation import AS, ES

#: Student's t for a 95 % interval from 2, 3, … 15 values; from more it is near 2.
STUDENT = [12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
STUDENT += [2.160, 2.145]
RESAMPLES = 2000

Found = list[tuple[Trial, dict]]  # trials with what they found
Rows = dict[str, Found]


def finished(experiment: Experiment, results: dict[str, dict]) -> Rows:
    """The experiment's trials that have a result, by row."""
    rows: Rows = defaultdict(list)
    for trial in experiment.trials:
        if trial.key in results:
            rows[trial.row].append((trial, results[trial.key]))
    return dict(rows)


# --- intervals -----------------------------------------------------------------------------------


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; of one value, NaN.

    >>> mean, reach = mean_interval([1.0, 2.0, 3.0])
    >>> mean, round(reach, 3)
    (2.0, 2.484)
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    t = STUDENT[n - 2] if n - 2 < len(STUDENT) else 2.0
    return mean, t * math.sqrt(variance / n)


def scores_of_each(test: dict) -> np.ndarray:
    """(n,) float: of each problem whether it was solved ("0110"), or its ROUGE-L."""
    return np.array(list(test["each"]), dtype=float)


def difference_interval(ours: Found, others: Found, test: str) -> tuple[float, float, float] | None:
    """Mean difference over the seeds that both have, and its 95 % interval; None without any."""
    by_seed = [{t.seed: r["tests"].get(test) for t, r in found} for found in (ours, others)]
    seeds = [s for s in by_seed[0] if by_seed[0][s] and by_seed[1].get(s)]
    if not seeds:
        return None
    pairs = [scores_of_each(by_seed[0][s]) - scores_of_each(by_seed[1][s]) for s in seeds]
    differences = np.stack(pairs)  # (seeds, problems)
    n_seeds, n = differences.shape
    rng = np.random.default_rng(0)
    drawn = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        chosen = differences[rng.integers(n_seeds, size=n_seeds)]
        drawn[i] = np.mean([row[rng.integers(n, size=n)].mean() for row in chosen])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def problems_to_match(rows: Rows) -> list[tuple[float, float, float, float]]:
    """How many times as many problems direct needs, to be as accurate as USM with n.

    Direct's accuracy is read off between its own sizes, along the logarithm of their number.

    Returns:
        (n, ratio, low, high) for all sizes but the largest; the interval is the bootstrap over
        seeds and problems. Where USM is better than direct ever was, the ratio is that of direct's
        largest size, a lower bound.
    """
    each: dict[str, dict] = {name: defaultdict(dict) for name in ("direct", "usm")}
    for name in each:
        for trial, result in rows.get(name, []):
            each[name][trial.x][trial.seed] = scores_of_each(result["tests"]["test"])
    sizes = sorted(set(each["direct"]) & set(each["usm"]))
    if len(sizes) < 2:
        return []
    seeds = sorted(set.intersection(*(set(each[m][n]) for m in each for n in sizes)))
    if not seeds:
        return []
    rng = np.random.default_rng(0)

    def ratios(draw: Callable[[np.ndarray], np.ndarray], chosen: Sequence[int]) -> list[float]:
        accuracy = {
            m: [np.mean([draw(each[m][n][s]).mean() for s in chosen]) for n in sizes] for m in each
        }
        direct = np.maximum.accumulate(accuracy["direct"])
        logs = np.interp(accuracy["usm"], direct, np.log(sizes))
        return list(np.exp(logs) / sizes)

    best = ratios(lambda x: x, seeds)
    drawn = [
        ratios(
            lambda x: x[rng.integers(len(x), size=len(x))], rng.choice(seeds, len(seeds)).tolist()
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return list(zip(sizes, best, low, high))[:-1]


# --- tables --------------------------------------------------------------------------------------


def table(experiment: Experiment, results: dict[str, dict]) -> str:
    """What was found, as a table in Markdown; it says how many trials are missing."""
    rows = finished(experiment, results)
    if not rows:
        return "Nothing was run yet.\n"
    if experiment.kind == "axis":
        lines = _axis_table(experiment, rows)
    else:
        kinds = {
            "rows": _row_table,
            "sweep": _sweep_table,
            "losses": _loss_table,
            "scorers": _scorer_table,
        }
        lines = kinds[experiment.kind](rows)
    if experiment.axis == "steps":
        lines += ["", *_mistake_table(rows)]
    n = sum(len(found) for found in rows.values())
    if n < len(experiment.trials):
        lines += [
            "",
            f"{len(experiment.trials) - n} of {len(experiment.trials)} trials are missing.",
        ]
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def _with_interval(values: Sequence[float]) -> str:
    mean, reach = mean_interval(values)
    return f"{mean:.3f}" if math.isnan(reach) else f"{mean:.3f} ± {reach:.3f}"


def _scores(found: Found, test: str, score: str) -> list[float]:
    tests = [r["tests"][test] for _, r in found if test in r["tests"]]
    return [t[score] for t in tests if t[score] is not None]


def _row_table(rows: Rows) -> list[str]:
    """A line for each row and test."""
    header = ["", "seeds", "score", "against the first", "BLEU", "end", "updates", "seconds"]
    cells, first = [], {}
    for name, found in rows.items():
        trial, result = found[0]
        for test in [t for t in result["tests"] if not t.endswith("steps")]:
            score = "accuracy" if trial.task == "mwp" else "rougeL"
            # The first row of the same problems and budget is what others are compared with.
            budget = (trial.recipe.training.max_steps, trial.epochs)
            alike = (trial.task, trial.data, trial.problems, *budget, test)
            baseline = first.setdefault(alike, found)
            against = ""
            if baseline is not found and (d := difference_interval(found, baseline, test)):
                against = f"{d[0]:+.3f} [{d[1]:+.3f}, {d[2]:+.3f}]"
            ended = [r["tests"][test]["stop_reasons"]["end"] for _, r in found]
            label = name if test == "test" else f"{name}: {test}"
            cells.append(
                [
                    label,
                    str(len(found)),
                    _with_interval(_scores(found, test, score)),
                    against,
                    f"{np.mean(_scores(found, test, 'bleu')):.1f}",
                    f"{np.mean(ended):.2f}",
                    f"{np.mean([r['steps'] for _, r in found]):.0f}",
                    f"{np.median([r['seconds'] for _, r in found]):.0f}",
                ]
            )
    return _markdown(header, cells)


def _points(experiment: Experiment, rows: Rows) -> dict[str, dict[float, list[float]]]:
    """Of each row, the scores of all seeds at each place of the axis."""
    points: dict[str, dict[float, list[float]]] = {}
    for name, found in rows.items():
        own = points.setdefault(name, defaultdict(list))
        for trial, result in found:
            if experiment.axis == "steps":
                for n in STEPS:
                    own[n].append(result["tests"][f"{n} steps"]["accuracy"])
            else:
                assert trial.x is not None
                own[trial.x].append(result["tests"]["test"]["accuracy"])
    return points


def _axis_table(experiment: Experiment, rows: Rows) -> list[str]:
    points = _points(experiment, rows)
    places = sorted({x for own in points.values() for x in own})
    names = experiment.axis.split(", ") if "," in experiment.axis else None
    cells = []
    for x in places:
        label = names[int(x)] if names else f"{x:g}"
        cells.append(
            [label, *(_with_interval(own[x]) if x in own else "" for own in points.values())]
        )
    header = ["" if names else experiment.axis, *points]
    return _markdown(header, cells)


def _sweep_table(rows: Rows) -> list[str]:
    """Scores of each γ and β, and what their labels are like."""
    cells = []
    for name, found in rows.items():
        for beta in sorted({t.x for t, _ in found}):
            own = [(t, r) for t, r in found if t.x == beta]
            f1 = (f"{np.mean([r['roles'][role]['f1'] for _, r in own]):.2f}" for role in (ES, AS))
            cells.append(
                [
                    f"{name}, β = {beta:g}",
                    str(len(own)),
                    _with_interval(_scores(own, "test", "accuracy")),
                    f"{np.mean(_scores(own, 'test', 'bleu')):.1f}",
                    f"{np.mean([r['as_share'] for _, r in own]):.2f}",
                    f"{np.mean([r['segments'] for _, r in own]):.1f}",
                    " / ".join(f1),
                ]
            )
    header = ["", "seeds", "accuracy", "BLEU", "share of AS", "segments", "F1 of ES / AS"]
    return _markdown(header, cells)


def _mistake_table(rows: Rows) -> list[str]:
    """What goes wrong first in the problems of five and six steps, as shares of all."""
    cells = []
    for name, found in rows.items():
        kinds = [
            r["tests"]["longer"]["mistakes"] for _, r in found if "mistakes" in r["tests"]["longer"]
        ]
        if kinds:
            cells.append([name, *(f"{np.mean([k[kind] for k in kinds]):.3f}" for kind in KINDS)])
    return _markdown(["first mistake, 5 and 6 steps", *KINDS], cells)


def _loss_table(rows: Rows) -> list[str]:
    """The best validation losses, and what direct's tokens of each role cost."""
    per_chain: dict[str, list[float]] = defaultdict(list)
    per_token: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    of_roles: dict[str, list[dict]] = defaultdict(list)
    for name, found in rows.items():
        for _, result in found:
            tokens = result.get("target_tokens", {})
            best = {m: min(loss for *_, loss in p) for m, p in result["validation"].items()}
            for model, loss in best.items():
                per_token[name][model].append(loss)
            if tokens:
                per_chain[name].append(sum(loss * tokens[m] for m, loss in best.items()))
            for role, values in (result.get("by_role") or {}).items():
                of_roles[role].append(values)
    cells = []
    for name, of_models in per_token.items():
        losses = [f"{model} {np.mean(values):.3f}" for model, values in of_models.items()]
        whole = _with_interval(per_chain[name]) if per_chain[name] else ""
        cells.append([name, whole, ", ".join(losses)])
    lines = _markdown(["best validation loss", "nats a chain", "nats a token"], cells)
    cells = [
        [role, *(f"{np.mean([v[k] for v in values]):.3f}" for k in ("loss", "entropy", "accuracy"))]
        for role, values in of_roles.items()
    ]
    header = ["direct's tokens of true role", "loss", "entropy", "accuracy"]
    return [*lines, "", *_markdown(header, cells)]


def _scorer_table(rows: Rows) -> list[str]:
    """F1 of ES and AS against the true roles, and what the scorer is like."""
    cells = []
    rules = ("mean", "sum", "first token", "highest", "position")
    for name, found in rows.items():
        roles = [r["by_role"] for _, r in found]
        finds = [r["by_entropy"] for _, r in found]
        cells.append(
            [
                name,
                f"{np.mean(_scores(found, 'test', 'accuracy')):.3f}",
                *(
                    f"{np.mean([r[k]['entropy'] for r in roles]):.2f}"
                    for k in ("ES", "AS", "computed")
                ),
                *(
                    " / ".join(
                        f"{np.mean([f[rule][role] for f in finds]):.2f}" for role in ("ES", "AS")
                    )
                    for rule in rules
                ),
            ]
        )
    header = ["scorer", "accuracy", "entropy: ES", "AS", "computed", *(f"F1 by {r}" for r in rules)]
    return _markdown(header, cells)


# --- figures -------------------------------------------------------------------------------------


def draw(experiment: Experiment, results: dict[str, dict], out: Path) -> None:
    """An SVG of what was found, if anything was.

    Raises:
        InputError: matplotlib is not installed.
    """
    rows = finished(experiment, results)
    if not rows or experiment.kind == "scorers":
        return
    pyplot = need_pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4))
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
    for name, own in _points(experiment, rows).items():
        places = sorted(own)
        means, reaches = zip(*(mean_interval(own[x]) for x in places))
        axes.errorbar(places, means, yerr=np.nan_to_num(reaches), marker="o", capsize=3, label=name)
    axes.set(xlabel=experiment.axis, ylabel="accuracy", ylim=(0, 1))
    if experiment.axis == "training problems":
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
    elif "," in experiment.axis:
        names = experiment.axis.split(", ")
        axes.set_xticks(range(len(names)), names)
    axes.legend()


def _draw_sweep(axes: Any, rows: Rows) -> None:
    """Accuracy on the left, BLEU (dashed) on the right, as in Figure 3."""
    right = axes.twinx()
    for name, found in rows.items():
        places = sorted({t.x for t, _ in found})
        at = [[(t, r) for t, r in found if t.x == x] for x in places]
        accuracy = [np.mean(_scores(own, "test", "accuracy")) for own in at]
        bleu = [np.mean(_scores(own, "test", "bleu")) for own in at]
        [line] = axes.plot(places, accuracy, marker="o", label=name)
        right.plot(places, bleu, "--", marker=".", color=line.get_color(), alpha=0.6)
    axes.set(xlabel="β", ylabel="accuracy", ylim=(0, 1), xticks=places)
    right.set(ylabel="BLEU (dashed)", ylim=(0, 100))
    axes.legend()


def _draw_rows(axes: Any, rows: Rows) -> None:
    names = list(rows)[::-1]
    for i, name in enumerate(names):
        score = "accuracy" if rows[name][0][0].task == "mwp" else "rougeL"
        values = _scores(rows[name], "test", score)
        mean, reach = mean_interval(values)
        axes.barh(i, mean, xerr=np.nan_to_num(reach), color="tab:blue", alpha=0.4, capsize=3)
        axes.plot(values, [i] * len(values), "k.", markersize=4)
    axes.set_yticks(range(len(names)), names)
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
