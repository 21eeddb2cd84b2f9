"""What the trials of a cell found, with intervals.

All intervals are 95 %, of Student's t over seeds. Differences from direct are paired: trials of one
seed have the same data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from trials import EXPERIMENTS, Trial

#: Student's t for a 95 % interval from 3, 4, … 15 values; from more it is near 2.
STUDENT = [4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
STUDENT += [2.160, 2.145]

Results = dict[Trial, dict]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its interval: NaN for fewer than three values.

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


@dataclass
class Cell:
    """The finished trials of a cell."""

    rows: list[dict]  # their lines in the file
    values: list[float]  # the score of each
    differences: list[float]  # from direct with the same seed
    time: float  # median over seeds, as a multiple of direct's

    @property
    def significant(self) -> bool:
        """Does the interval of the difference exclude zero?"""
        if len(self.differences) < 3:
            return False
        mean, reach = mean_interval(self.differences)
        return abs(mean) > reach


def find_cell(
    results: Results, experiment: str, row: str, column: str, score: str | None = None
) -> Cell | None:
    """What was found; None if nothing was. ``score``: in place of the experiment's."""
    trials, test = EXPERIMENTS[experiment].cell(row, column)
    score = score or EXPERIMENTS[experiment].score
    if score == "score":
        score = "accuracy" if trials[0].task == "mwp" else "rougeL"
    found = [t for t in trials if t in results]
    if not found or score not in results[found[0]]["tests"].get(test, {}):
        return None
    others = [t for t in found if t != t.baseline and t.baseline in results]

    def value(trial: Trial) -> float:
        return results[trial]["tests"][test][score]

    times = [results[t]["seconds"] / results[t.baseline]["seconds"] for t in others]
    return Cell(
        [results[t] for t in found],
        [value(t) for t in found],
        [value(t) - value(t.baseline) for t in others],
        float(np.median(times)) if times else math.nan,
    )


def problems_to_match(results: Results, column: str) -> list[tuple[str, float, float, float]]:
    """How many times as many problems direct needs to be as accurate as another with n.

    Read off direct's own curve of each seed, along the logarithm of its number of problems.

    Returns:
        (n, ratio, low, high) for all n but the largest; the ratio is the geometric mean over seeds.
        Where direct is never as accurate, its largest n stands for it: a lower bound.
    """
    experiment = EXPERIMENTS["words"]
    sizes = [int(name.replace(",", "")) for name in experiment.rows]
    ratios = []
    for n, row in list(zip(sizes, experiment.rows))[:-1]:
        logs = []
        for seed in range(5):
            cells = [experiment.cell(other, "direct")[0][seed] for other in experiment.rows]
            trial = experiment.cell(row, column)[0][seed]
            if not all(t in results for t in [*cells, trial]):
                continue
            direct = [results[t]["tests"]["test"]["accuracy"] for t in cells]
            wanted = results[trial]["tests"]["test"]["accuracy"]
            reached = np.interp(wanted, np.maximum.accumulate(direct), np.log(sizes))
            logs.append(reached - math.log(n))
        if len(logs) > 2:
            mean, reach = mean_interval(logs)
            ratios.append((row, *np.exp([mean, mean - reach, mean + reach]).tolist()))
    return ratios
