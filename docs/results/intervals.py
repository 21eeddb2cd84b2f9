"""Results of a cell, with intervals.

All are 95 % Student's t intervals over seeds. Differences from direct are paired: trials with the
same seed have the same data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from trials import EXPERIMENTS, Trial

#: Student's t for a 95 % interval of 3, 4, … 15 values; for more, about 2.
STUDENT = [4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
STUDENT += [2.160, 2.145]

Results = dict[Trial, dict]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the interval's width, NaN for fewer than three values.

    >>> mean, reach = mean_interval([1.0, 2.0, 3.0])
    >>> mean, round(reach, 3)
    (2.0, 2.484)
    """
    n, mean = len(values), fmean(values)
    if n < 3:
        return mean, math.nan
    t = STUDENT[n - 3] if n - 3 < len(STUDENT) else 2.0
    return mean, t * stdev(values) / math.sqrt(n)


@dataclass
class Cell:
    """The finished trials of a cell."""

    rows: list[dict]  # from trials.jsonl
    values: list[float]  # the score of each
    differences: list[float]  # from direct with the same seed
    time: float  # multiple of direct's in the same session; median over seeds

    @property
    def significant(self) -> bool:
        """Whether the interval of the mean difference excludes zero."""
        mean, reach = mean_interval(self.differences or [0.0])
        return abs(mean) > reach  # False if the reach is NaN


def find_cell(results: Results, experiment: str, row: str, column: str) -> Cell | None:
    """The cell; None without results."""
    trials, test = EXPERIMENTS[experiment].cell(row, column)
    score = "accuracy" if trials[0].task == "mwp" else "rougeL"
    found = [t for t in trials if t in results]
    if not found or score not in results[found[0]]["tests"].get(test, {}):
        return None
    others = [t for t in found if t != t.baseline and t.baseline in results]
    pairs = [(results[t], results[t.baseline]) for t in others]
    times = [a["seconds"] / b["seconds"] for a, b in pairs if a["session"] == b["session"]]
    return Cell(
        rows=[results[t] for t in found],
        values=[results[t]["tests"][test][score] for t in found],
        differences=[a["tests"][test][score] - b["tests"][test][score] for a, b in pairs],
        time=float(np.median(times)) if times else math.nan,
    )


def problems_to_match(results: Results, column: str) -> list[tuple]:
    """How many times as many problems direct needs to match ``column`` trained on n.

    Interpolates direct's accuracy over log n, for each seed. If direct never gets as accurate, its
    largest n counts: a lower bound.

    Returns (row, ratio, low, high) for all n but the largest; the ratio is the geometric mean.
    """
    experiment, ratios = EXPERIMENTS["words"], []
    logs_of_n = np.log([int(name.replace(",", "")) for name in experiment.rows])
    for log_n, row in list(zip(logs_of_n, experiment.rows))[:-1]:
        logs = []
        for seed in range(5):
            trials = [experiment.cell(other, "direct")[0][seed] for other in experiment.rows]
            trials.append(experiment.cell(row, column)[0][seed])
            if all(t in results for t in trials):
                *direct, wanted = (results[t]["tests"]["test"]["accuracy"] for t in trials)
                logs.append(np.interp(wanted, np.maximum.accumulate(direct), logs_of_n) - log_n)
        if len(logs) > 2:
            mean, reach = mean_interval(logs)
            ratios.append((row, *np.exp([mean, mean - reach, mean + reach]).tolist()))
    return ratios
