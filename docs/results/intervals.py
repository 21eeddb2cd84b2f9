"""Results of a cell, with intervals.

All are 95 % Student's t intervals over seeds. Differences from direct are paired: trials with the
same seed have the same data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

    rows: list[dict]  # from trials.jsonl
    values: list[float]  # the score of each
    differences: list[float]  # from direct with the same seed
    time: float  # multiple of direct's in the same session; median over seeds

    @property
    def significant(self) -> bool:
        """Whether the interval of the mean difference excludes zero."""
        if len(self.differences) < 3:
            return False
        mean, reach = mean_interval(self.differences)
        return abs(mean) > reach


def find_cell(results: Results, experiment: str, row: str, column: str) -> Cell | None:
    """The cell; None without results."""
    trials, test = EXPERIMENTS[experiment].cell(row, column)
    score = EXPERIMENTS[experiment].score
    if score == "score":
        score = "accuracy" if trials[0].task == "mwp" else "rougeL"
    found = [t for t in trials if t in results]
    if not found or score not in results[found[0]]["tests"].get(test, {}):
        return None
    others = [t for t in found if t != t.baseline and t.baseline in results]

    def value(trial: Trial) -> float:
        return results[trial]["tests"][test][score]

    pairs = [(results[t], results[t.baseline]) for t in others]
    times = [a["seconds"] / b["seconds"] for a, b in pairs if a["session"] == b["session"]]
    return Cell(
        [results[t] for t in found],
        [value(t) for t in found],
        [value(t) - value(t.baseline) for t in others],
        float(np.median(times)) if times else math.nan,
    )


def problems_to_match(results: Results, column: str) -> list[tuple[str, float, float, float]]:
    """How many times as many problems direct needs to match ``column`` trained on n.

    Interpolate direct's accuracy over log n, for each seed.

    Returns:
        (n, ratio, low, high) for all n but the largest; the ratio is the geometric mean over seeds.
        If direct never gets as accurate, its largest n counts: a lower bound.
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
