"""Tables in Markdown of what the trials found."""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial, reduce
from operator import getitem

import numpy as np

from ases.experiments.intervals import (
    Difference,
    Found,
    Rows,
    difference_interval,
    finished,
    mean_interval,
    points,
    scores,
)
from ases.experiments.mistakes import KINDS
from ases.experiments.trials import Experiment
from ases.segmentation import AS, ES


def table(experiment: Experiment, results: dict[str, dict]) -> str:
    """What was found, as a table in Markdown; it says how many trials are missing."""
    rows = finished(experiment, results)
    if not rows:
        return "Nothing was run yet.\n"
    kinds = {"rows": _row_table, "sweep": _sweep_table, "losses": _loss_table}
    kinds |= {"scorers": _scorer_table, "axis": partial(_axis_table, experiment)}
    lines = kinds[experiment.kind](rows)
    if experiment.axis == "steps":
        lines += ["", *_mistake_table(rows)]
    n = sum(len(found) for found in rows.values())
    if n < len(experiment.trials):
        missing = len(experiment.trials) - n
        lines += ["", f"{missing} of {len(experiment.trials)} trials are missing."]
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def _with_interval(values: Sequence[float]) -> str:
    mean, reach = mean_interval(values)
    return f"{mean:.3f}" if math.isnan(reach) else f"{mean:.3f} ± {reach:.3f}"


def _difference(found: Difference | None) -> str:
    """With its interval; † marks one over problems alone."""
    if found is None:
        return ""
    mark = "" if found.seeds > 2 else " †"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{mark}"


def _mean(found: Found, *keys: str, digits: int = 2) -> str:
    """Of the value that lies under these keys of each result."""
    return f"{np.mean([reduce(getitem, keys, result) for _, result in found]):.{digits}f}"


def _row_table(rows: Rows) -> list[str]:
    """A line for each row and test."""
    header = ["", "seeds", "score", "against direct", "ROUGE-1, 2", "BLEU", "end"]
    header += ["segments", "updates", "time"]
    cells, first = [], {}
    for name, found in rows.items():
        trial, result = found[0]
        for test in [t for t in result["tests"] if not t.endswith("steps")]:
            score = "accuracy" if trial.task == "mwp" else "rougeL"
            # The first row of the same problems and budget is what others are compared with.
            budget = (trial.recipe.training.max_steps, trial.epochs)
            alike = (trial.task, trial.data, trial.problems, *budget, test)
            baseline = first.setdefault(alike, found)
            difference, time = None, f"{np.median([r['seconds'] for _, r in found]):.0f} s"
            if baseline is not found and (d := difference_interval(found, baseline, test)):
                difference, time = d, _times_as_long(found, baseline)
            label = name if test == "test" else f"{name}, {test.removeprefix('test, ')}"
            means = [np.mean(scores(found, test, f"rouge{n}")) for n in "12" if trial.task == "pet"]
            line = [label, str(len(found)), _with_interval(scores(found, test, score))]
            line += [_difference(difference), ", ".join(f"{mean:.3f}" for mean in means)]
            line.append(_mean(found, "tests", test, "bleu", digits=1))
            line.append(_mean(found, "tests", test, "stop_reasons", "end"))
            direct = trial.recipe.mode == "direct"
            line.append("" if direct else _mean(found, "segments", digits=1))
            cells.append([*line, _mean(found, "steps", digits=0), time])
    return _markdown(header, cells)


def _times_as_long(found: Found, baseline: Found) -> str:
    """The median over seeds: both ran on one machine at about one time, others did elsewhere."""
    of_seed = {t.seed: r["seconds"] for t, r in baseline}
    ratios = [r["seconds"] / of_seed[t.seed] for t, r in found if t.seed in of_seed]
    return f"× {np.median(ratios):.2f}"


def _axis_table(experiment: Experiment, rows: Rows) -> list[str]:
    places_of = points(experiment, rows)
    places = sorted({x for own in places_of.values() for x in own})
    names = experiment.axis.split(", ") if "," in experiment.axis else None
    header = ["" if names else experiment.axis, *places_of]
    compared = {"test": "usm ahead", "longer": "usm ahead, longer"}
    compared = {} if experiment.axis == "steps" else compared
    cells = []
    for x in places:
        label = names[int(x)] if names else f"{x:g}"
        line = [_with_interval(own[x]) if x in own else "" for own in places_of.values()]
        usm, direct = ([f for f in rows.get(m, []) if f[0].x == x] for m in ("usm", "direct"))
        differences = [difference_interval(usm, direct, test) for test in compared]
        cells.append([label, *line, *map(_difference, differences)])
    return _markdown([*header, *compared.values()], cells)


def _sweep_table(rows: Rows) -> list[str]:
    """Scores of each γ and β, and what their labels are like."""
    cells = []
    for name, found in rows.items():
        for beta in sorted({t.x for t, _ in found}):
            own = [(t, r) for t, r in found if t.x == beta]
            f1 = [_mean(own, "roles", role, "f1") for role in (ES, AS)]
            line = [f"{name}, β = {beta:g}", str(len(own))]
            line.append(_with_interval(scores(own, "test", "accuracy")))
            line.append(_mean(own, "tests", "test", "bleu", digits=1))
            line += [_mean(own, "as_share"), _mean(own, "segments", digits=1)]
            cells.append([*line, " / ".join(f1)])
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
        line = [name, _mean(found, "tests", "test", "accuracy", digits=3)]
        for kind in (ES, AS, "computed"):
            line.append(_mean(found, "by_role", kind, "entropy"))
        for rule in rules:
            f1 = [_mean(found, "by_entropy", rule, role) for role in (ES, AS)]
            line.append(" / ".join(f1))
        cells.append(line)
    header = ["scorer", "accuracy", "entropy: ES", "AS", "computed", *(f"F1 by {r}" for r in rules)]
    return _markdown(header, cells)
