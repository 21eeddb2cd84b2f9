"""Tables and numbers for the pages, in Markdown."""

import math
import re
from collections.abc import Iterable, Sequence
from functools import partial, reduce
from itertools import product
from operator import getitem
from statistics import fmean

import numpy as np
from intervals import Cell, Results, find_cell, mean_interval, significant
from runner import RESULTS
from trials import BUDGETS, EXPERIMENTS, MODES

from ases.segmentation import AS, ES

PAGES = [RESULTS.parent / "results.md", RESULTS.parent.parent / "README.md"]
#: Rows of the README's table: what they are, and where they stand.
SUMMARY = {
    "1,000 word problems, accuracy": ("words", "1,000"),
    "2,000, longer problems": ("longer", "2,000"),
    "500 PET reports, ROUGE-L": ("data", "cPET, 500 reports"),
}


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |\n" for row in (header, *rows)]
    return "".join([lines[0], "|" + "---|" * len(header) + "\n", *lines[1:]])


def _shown(cell: Cell | None, bold: bool) -> str:
    """ "**0.722** ± 0.030, × 1.46": time last."""
    if cell is None:
        return ""
    score, *reach = _interval(cell.values).split(" ")
    text = " ".join([f"**{score}**" if bold else score, *reach])
    return text if math.isnan(cell.time) else f"{text}, × {cell.time:.2f}"


def _interval(values: Sequence[float], digits: int = 3) -> str:
    """ "0.722 ± 0.030"; without ± for fewer than three values."""
    mean, reach = mean_interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(reach) else f" ± {reach:.{digits}f}")


def _difference(cell: Cell | None) -> str:
    if cell is None or not cell.differences:
        return ""
    mean, reach = mean_interval(cell.differences)
    interval = f" [{mean - reach:+.3f}, {mean + reach:+.3f}]"
    return f"{mean:+.3f}" + ("" if math.isnan(reach) else interval)


def _mean(cell: Cell, *keys: str, digits: int = 2) -> str:
    """Mean over trials of the value under these nested keys."""
    return f"{np.mean([reduce(getitem, keys, row) for row in cell.rows]):.{digits}f}"


# --- tables --------------------------------------------------------------------------------------
def _scores(rows: dict[str, tuple], columns: Sequence[str], results: Results) -> str:
    """Cells of rows, each a name and its experiment and row; with the number of seeds."""
    lines = []
    bold = {experiment: significant(results, experiment) for experiment, _ in set(rows.values())}
    for name, (experiment, row) in rows.items():
        cells = {column: find_cell(results, experiment, row, column) for column in columns}
        seeds = sorted({len(cell.values) for cell in cells.values() if cell})
        if seeds:
            counts = " to ".join(map(str, seeds[:1] + seeds[-1:] if seeds[1:] else seeds))
            plural = "seed" if counts == "1" else "seeds"
            texts = [_shown(cell, (row, c) in bold[experiment]) for c, cell in cells.items()]
            lines.append([f"{name} ({counts} {plural})", *texts])
    return _markdown(["", *columns], lines)


def _all_the_time(results: Results) -> str:
    """Scores at the budget with the best accuracy in validation."""
    lines = []
    for row in EXPERIMENTS["curve"].rows:
        find = partial(find_cell, results, "curve", row)
        cells = {n: find(f"{n:,} updates", "validation") for n in BUDGETS}
        if all(cell and len(cell.values) >= 3 for cell in cells.values()):
            means = {n: fmean(cell.values) for n, cell in cells.items()}
            best = max(means, key=means.get)
            tests = [find(f"{best:,} updates", test) for test in ("test", "longer")]
            name = f"{row} ({len(tests[0].values)} seeds)"
            lines.append([name, f"{best:,}", *(_interval(c.values) if c else "" for c in tests)])
    return _markdown(["", "updates", "accuracy", "on longer problems"], lines)


def _scorers(results: Results) -> str:
    """F1 of ES and AS against the true roles, by rule, and the scorer's entropies."""
    rules, lines = ("mean", "sum", "first token", "highest", "position"), []
    for row in EXPERIMENTS["scorers"].rows:
        cell = find_cell(results, "scorers", row, "direct")
        if cell:
            line = [row, _mean(cell, "tests", "test", "accuracy")]
            line += [_mean(cell, "by_role", kind) for kind in (ES, AS, "computed")]
            f1 = partial(_mean, cell, "by_entropy")
            lines.append([*line, *(f"{f1(rule, ES)} / {f1(rule, AS)}" for rule in rules)])
    header = ["scorer", "accuracy", "entropy: ES", "AS", "computed", *(f"F1 by {r}" for r in rules)]
    return _markdown(header, lines)


#: Tables of the pages: name → what makes it from the results.
TABLES = {
    name: partial(_scores, {row: (name, row) for row in experiment.rows}, list(experiment.columns))
    for name, experiment in EXPERIMENTS.items()
}
TABLES |= {"summary": partial(_scores, SUMMARY, [*list(MODES)[:4], "DSM, equal epochs"])}
TABLES |= {"all the time": _all_the_time, "scorers": _scorers}


def long_tables(results: Results) -> str:
    """Every experiment's table, and one row per cell: all scores, differences, updates, seconds."""
    parts = ["# Every table in full\n", "Made by `python docs/results all`.\n"]
    header = ["", "", "score", "difference", "BLEU", "ended", "segments", "updates", "seconds"]
    for name, experiment in EXPERIMENTS.items():
        lines = []
        for row, column in product(experiment.rows, experiment.columns):
            cell = find_cell(results, name, row, column)
            if cell:
                lines.append([row, column, *_details(cell, experiment.cell(row, column)[1])])
        if lines:
            parts += [f"## {experiment.title}\n", TABLES[name](results)]
            parts += [
                "<details><summary>in full</summary>\n",
                _markdown(header, lines),
                "</details>\n",
            ]
    return "\n".join(parts)


def _details(cell: Cell, test: str) -> list[str]:
    return [
        _interval(cell.values),
        _difference(cell),
        _mean(cell, "tests", test, "bleu", digits=1),
        _mean(cell, "tests", test, "end"),
        _mean(cell, "segments", digits=1),
        _mean(cell, "updates", digits=0),
        f"{np.median([row['seconds'] for row in cell.rows]):.0f}",
    ]


# --- into the pages ------------------------------------------------------------------------------
def filled(text: str, results: Results) -> str:
    """Replace everything between ``<!-- PLACE -->`` and ``<!-- end -->``.

    PLACE is a table's name ("words"), or a cell like "words/1,000/USM, equal epochs/cell";
    ".../gain" is its difference from its rival.
    """

    def again(match: re.Match) -> str:
        place = match[1]
        if place in TABLES:
            content = f"\n\n{TABLES[place](results)}\n"
        else:
            experiment, row, column, what = place.split("/")
            cell = find_cell(results, experiment, row, column)
            bold = (row, column) in significant(results, experiment)
            content = (_shown(cell, bold) if what == "cell" else _difference(cell)) or "not run"
        return f"<!-- {place} -->{content}<!-- end -->"

    places = "|".join([*TABLES, "[^<>]*/[^<>]*"])
    return re.sub(rf"<!-- ({places}) -->(?s:.*?)<!-- end -->", again, text)
