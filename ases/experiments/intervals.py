"""What trials found, and the intervals that say what it is worth.

A mean over seeds stands with the 95 % interval of Student's t, and so does a difference between two
rows, which had the same problems where they had the same seed. Of one or two seeds it is the
bootstrap over problems, which says nothing of what another seed would give.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ases.experiments.trials import STEPS, Experiment, Trial

#: Student's t for a 95 % interval from 3, 4, … 15 values; from more it is near 2.
STUDENT = [4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
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


def scores(found: Found, test: str, score: str) -> list[float]:
    """A score of each trial that had this test."""
    tests = [r["tests"][test] for _, r in found if test in r["tests"]]
    return [t[score] for t in tests if t[score] is not None]


def points(experiment: Experiment, rows: Rows) -> dict[str, dict[float, list[float]]]:
    """Of each row, the scores of all seeds at each place of the axis; those of longer problems are
    a row of their own."""
    at: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, found in rows.items():
        for trial, result in found:
            tests = result["tests"]
            if experiment.axis == "steps":
                for n in STEPS:
                    at[name][n].append(tests[f"{n} steps"]["accuracy"])
            else:
                assert trial.x is not None
                at[name][trial.x].append(tests["test"]["accuracy"])
                at[f"{name}, longer"][trial.x].append(tests["longer"]["accuracy"])
    return at


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; of one or two values, NaN.

    >>> mean, reach = mean_interval([1.0, 2.0, 3.0])
    >>> mean, round(reach, 3)
    (2.0, 2.484)
    """
    n = len(values)
    mean = sum(values) / n
    if n < 3:
        return mean, math.nan
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    t = STUDENT[n - 3] if n - 3 < len(STUDENT) else 2.0
    return mean, t * math.sqrt(variance / n)


def scores_of_each(test: dict) -> np.ndarray:
    """(n,) float: of each problem whether it was solved ("0110"), or its ROUGE-L."""
    return np.array(list(test["each"]), dtype=float)


class Difference(NamedTuple):
    """A mean difference over seeds, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int


def difference_interval(ours: Found, others: Found, test: str) -> Difference | None:
    """Of the seeds that both have, each paired with itself; None where they share none."""
    by_seed = [{t.seed: r["tests"].get(test) for t, r in found} for found in (ours, others)]
    seeds = [s for s in by_seed[0] if by_seed[0][s] and by_seed[1].get(s)]
    if not seeds:
        return None
    # Of each seed, a row of its problems; seeds may have different numbers of them.
    differences = [scores_of_each(by_seed[0][s]) - scores_of_each(by_seed[1][s]) for s in seeds]
    mean, reach = mean_interval([row.mean() for row in differences])
    if len(seeds) > 2:
        return Difference(mean, mean - reach, mean + reach, len(seeds))
    rng = np.random.default_rng(0)
    drawn = [
        np.mean([rng.choice(row, size=len(row)).mean() for row in differences])
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(mean, float(low), float(high), len(seeds))


def problems_to_match(rows: Rows) -> list[tuple[float, float, float, float]]:
    """How many times as many problems direct needs, to be as accurate as USM with n.

    Direct's accuracy is read off between its own sizes, along the logarithm of their number; each
    seed has a curve of its own.

    Returns:
        (n, ratio, low, high) for all sizes but the largest, if three seeds have them; the ratio is
        the geometric mean over seeds. Where USM is better than direct ever was, it is that of
        direct's largest size, a lower bound.
    """
    accuracy: dict[int, dict] = defaultdict(lambda: {"direct": {}, "usm": {}})
    for name, found in rows.items():
        for trial, result in found:
            each = scores_of_each(result["tests"]["test"])
            accuracy[trial.seed][name][trial.x] = each.mean()
    logs: dict[float, list[float]] = defaultdict(list)
    for own in accuracy.values():
        sizes = sorted(own["direct"])
        direct = np.maximum.accumulate([own["direct"][n] for n in sizes])
        for n in sorted(set(sizes) & set(own["usm"]))[:-1]:
            logs[n].append(np.interp(own["usm"][n], direct, np.log(sizes)) - math.log(n))
    ratios = []
    for n, values in logs.items():
        mean, reach = mean_interval(values)
        if len(values) > 2:
            ratios.append((n, *np.exp([mean, mean - reach, mean + reach]).tolist()))
    return ratios
