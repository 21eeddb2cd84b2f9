"""Tables and numbers for the pages, in Markdown."""

import math
import re
from collections.abc import Iterable, Sequence
from functools import partial, reduce
from itertools import product
from operator import getitem

import numpy as np
from intervals import Cell, Results, find_cell, mean_interval, problems_to_match
from runner import RESULTS
from trials import EXPERIMENTS, MODES

from ases.segmentation import AS, ES

PAGES = [RESULTS.parent / "results.md", RESULTS.parent.parent / "README.md"]
MAIN = list(MODES)[:3]  # direct; USM at equal updates and at equal epochs
#: Rows of the README's table: what they are, and where they stand.
SUMMARY = {
    "500 word problems, accuracy": ("words", "500"),
    "1,000 word problems, accuracy": ("words", "1,000"),
    "500 PET reports, ROUGE-L": ("data", "cPET, 500 reports"),
}


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |\n" for row in (header, *rows)]
    return "".join([lines[0], "|" + "---|" * len(header) + "\n", *lines[1:]])


def _shown(cell: Cell | None) -> str:
    """ "**0.722** ± 0.030, × 1.46": bold if significant; time last."""
    if cell is None:
        return ""
    score, *reach = _interval(cell.values).split(" ")
    text = " ".join([f"**{score}**" if cell.significant else score, *reach])
    return text if math.isnan(cell.time) else f"{text}, × {cell.time:.2f}"


def _interval(values: Sequence[float], digits: int = 3) -> str:
    """ "0.722 ± 0.030"; without ± for fewer than three values."""
    mean, reach = mean_interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(reach) else f" ± {reach:.{digits}f}")


def _difference(cell: Cell) -> str:
    if not cell.differences:
        return ""
    mean, reach = mean_interval(cell.differences)
    interval = f" [{mean - reach:+.3f}, {mean + reach:+.3f}]"
    return f"{mean:+.3f}" + ("" if math.isnan(reach) else interval)


def _mean(cell: Cell, *keys: str, digits: int = 2) -> str:
    """Mean over trials of the value under these nested keys."""
    return f"{np.mean([reduce(getitem, keys, row) for row in cell.rows]):.{digits}f}"


# --- tables --------------------------------------------------------------------------------------
def _scores(rows: dict[str, tuple], columns: Iterable[str], results: Results) -> str:
    """Cells of rows, each a name and its experiment and row."""
    cells = [
        [name, *(_shown(find_cell(results, *place, column)) for column in columns)]
        for name, place in rows.items()
    ]
    return _markdown(["", *columns], cells)


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


def _losses(results: Results) -> str:
    """Best validation losses, in nats per chain and per token."""
    lines = []
    for column in EXPERIMENTS["losses"].columns:
        cell = find_cell(results, "losses", "1,000 problems", column)
        if cell:
            pairs = [(row["validation_loss"], row["target_tokens"]) for row in cell.rows]
            a_chain = [sum(losses[n] * tokens[n] for n in losses) for losses, tokens in pairs]
            a_token = [f"{n} {_mean(cell, 'validation_loss', n, digits=3)}" for n in pairs[0][0]]
            lines.append([column, _interval(a_chain, 2), ", ".join(a_token)])
    return _markdown(["", "nats per chain", "nats per token"], lines)


def _ratios(results: Results) -> str:
    """Table of ``problems_to_match``."""
    lines = []
    for column in MAIN[1:]:
        found = problems_to_match(results, column)
        lines.append([column, *(f"{r:.2f} [{low:.2f}, {high:.2f}]" for _, r, low, high in found)])
    return _markdown(["", *list(EXPERIMENTS["words"].rows)[:-1]], lines)


#: Tables of the pages: name → what makes it from the results.
TABLES = {
    name: partial(_scores, {row: (name, row) for row in experiment.rows}, experiment.columns)
    for name, experiment in EXPERIMENTS.items()
}
TABLES |= {"summary": partial(_scores, SUMMARY, MAIN)}
TABLES |= {"ratios": _ratios, "scorers": _scorers, "losses": _losses}


def long_tables(results: Results) -> str:
    """One row per cell: all scores, differences, epochs, updates, seconds."""
    parts = ["# Every table in full\n", "Made by `python docs/results all`.\n"]
    header = ["", "", "seeds", "score", "from direct", "BLEU", "ROUGE-1, 2", "end", "segments"]
    header += ["epochs", "updates", "seconds", "time"]
    for name, experiment in EXPERIMENTS.items():
        lines = []
        for row, column in product(experiment.rows, experiment.columns):
            cell = find_cell(results, name, row, column)
            if cell:
                lines.append([row, column, *_details(cell, experiment.cell(row, column)[1])])
        if lines:
            parts += [f"## {experiment.title}\n", _markdown(header, lines)]
    return "\n".join(parts)


def _details(cell: Cell, test: str) -> list[str]:
    first, scores = cell.rows[0], partial(_mean, cell, "tests", test)
    rouge = [scores(n, digits=3) for n in ("rouge1", "rouge2") if n in first["tests"][test]]
    return [
        str(len(cell.values)),
        _interval(cell.values),
        _difference(cell),
        scores("bleu", digits=1),
        ", ".join(rouge),
        scores("end"),
        _mean(cell, "segments", digits=1),
        ", ".join(_mean(cell, "epochs_done", name, digits=1) for name in first["epochs_done"]),
        _mean(cell, "updates", digits=0),
        f"{np.median([row['seconds'] for row in cell.rows]):.0f}",
        "" if math.isnan(cell.time) else f"× {cell.time:.2f}",
    ]


# --- into the pages ------------------------------------------------------------------------------
def filled(text: str, results: Results) -> str:
    """Replace everything between ``<!-- PLACE -->`` and ``<!-- end -->``.

    PLACE is a table's name ("words"), or a cell like "words/1,000/USM, equal epochs/cell";
    ".../gain" is its difference from direct.
    """

    def again(match: re.Match) -> str:
        place = match[1]
        if place in TABLES:
            content = f"\n\n{TABLES[place](results)}\n"
        else:
            *where, what = place.split("/")
            cell = find_cell(results, *where)
            shown = _shown if what == "cell" else _difference
            content = shown(cell) if cell else "not run"
        return f"<!-- {place} -->{content}<!-- end -->"

    places = "|".join([*TABLES, "[^<>]*/[^<>]*"])
    return re.sub(rf"<!-- ({places}) -->(?s:.*?)<!-- end -->", again, text)
