"""Results of a cell, with 95 % intervals of Student's t over seeds.

Differences are paired: trials with the same seed have the same data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

import numpy as np
from scipy import stats
from trials import EXPERIMENTS, Trial

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
    return mean, float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)


@dataclass
class Cell:
    """The finished trials of a cell."""

    rows: list[dict]  # from trials.jsonl
    values: list[float]  # the score of each
    differences: list[float]  # from the rival with the same seed
    time: float  # multiple of direct's in the same session; median over seeds


def find_cell(
    results: Results, experiment: str, row: str, column: str, test: str = ""
) -> Cell | None:
    """The cell; None without results. ``test``: another than the experiment's."""
    trials, usual = EXPERIMENTS[experiment].cell(row, column)
    test = test or usual
    score = "accuracy" if trials[0].task == "mwp" else "rougeL"
    done = [t for t in trials if t in results and test in results[t]["tests"]]
    if not done:
        return None

    def value(trial: Trial) -> float:
        return results[trial]["tests"][test][score]

    times = [(results[t], results[t.baseline]) for t in done if t.baseline in results]
    ratios = [a["seconds"] / b["seconds"] for a, b in times if a["session"] == b["session"]]
    return Cell(
        rows=[results[t] for t in done],
        values=[value(t) for t in done],
        differences=[
            value(t) - value(t.rival) for t in done if t.mode != "direct" and t.rival in results
        ],
        time=float(np.median(ratios)) if ratios and done[0] != done[0].baseline else math.nan,
    )


def significant(results: Results, experiment: str) -> set[tuple[str, str]]:
    """Cells that differ from their rivals: t tests at 5 %, with Holm's correction for the number
    of tests in the table."""
    p_values = {}
    for place in product(EXPERIMENTS[experiment].rows, EXPERIMENTS[experiment].columns):
        cell = find_cell(results, experiment, *place)
        if cell and len(cell.differences) >= 3 and stdev(cell.differences) > 0:
            p_values[place] = float(stats.ttest_1samp(cell.differences, 0).pvalue)
    chosen = set()
    for n, place in enumerate(sorted(p_values, key=p_values.get)):
        if p_values[place] > 0.05 / (len(p_values) - n):
            break
        chosen.add(place)
    return chosen
