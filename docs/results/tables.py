"""Tables and numbers for the pages, in Markdown."""

import math
import re
from collections.abc import Sequence
from functools import reduce
from operator import getitem

import numpy as np
from intervals import Cell, Results, find_cell, mean_interval, problems_to_match
from runner import RESULTS
from trials import EXPERIMENTS

from ases.run.write import write_text
from ases.segmentation import AS, ES

#: Rows of the README's table: where they stand, and what they are.
SUMMARY = {
    ("words", "500"): "500 word problems, accuracy",
    ("words", "1,000"): "1,000 word problems, accuracy",
    ("data", "cPET, 500 reports"): "500 PET reports, ROUGE-L",
}
PAGES = [RESULTS.parent / "results.md", RESULTS.parent.parent / "README.md"]


def table(name: str, results: Results) -> str:
    """An experiment's table."""
    experiment = EXPERIMENTS[name]
    if name in SPECIAL:
        lines = SPECIAL[name](results)
    else:
        cells = [
            [row, *(_shown(find_cell(results, name, row, column)) for column in experiment.columns)]
            for row in experiment.rows
        ]
        lines = _markdown(["", *experiment.columns], cells)
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


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
    mean, reach = mean_interval(cell.differences)
    return f"{mean:+.3f}" + (
        "" if math.isnan(reach) else f" [{mean - reach:+.3f}, {mean + reach:+.3f}]"
    )


def _mean(cell: Cell, *keys: str) -> float:
    """Mean over trials of the value under these nested keys."""
    return float(np.mean([reduce(getitem, keys, row) for row in cell.rows]))


def _scorers(results: Results) -> list[str]:
    """F1 of ES and AS against the true roles, by rule, and the scorer's entropies."""
    rules = ("mean", "sum", "first token", "highest", "position")
    cells = []
    for row in EXPERIMENTS["scorers"].rows:
        cell = find_cell(results, "scorers", row, "direct")
        if cell is None:
            continue
        line = [row, f"{_mean(cell, 'tests', 'test', 'accuracy'):.2f}"]
        line += [f"{_mean(cell, 'by_role', kind):.2f}" for kind in (ES, AS, "computed")]
        for rule in rules:
            f1 = [_mean(cell, "by_entropy", rule, role) for role in (ES, AS)]
            line.append(" / ".join(f"{value:.2f}" for value in f1))
        cells.append(line)
    header = ["scorer", "accuracy", "entropy: ES", "AS", "computed", *(f"F1 by {r}" for r in rules)]
    return _markdown(header, cells)


def _losses(results: Results) -> list[str]:
    """Best validation losses, in nats per chain and per token."""
    cells = []
    for column in EXPERIMENTS["losses"].columns:
        cell = find_cell(results, "losses", "1,000 problems", column)
        if cell is None:
            continue
        names = list(cell.rows[0]["validation_loss"])
        a_chain = [
            sum(row["validation_loss"][n] * row["target_tokens"][n] for n in names)
            for row in cell.rows
        ]
        a_token = ", ".join(f"{n} {_mean(cell, 'validation_loss', n):.3f}" for n in names)
        cells.append([column, _interval(a_chain, 2), a_token])
    return _markdown(["", "nats per chain", "nats per token"], cells)


SPECIAL = {"scorers": _scorers, "losses": _losses}


def summary(results: Results) -> str:
    """The README's table."""
    columns = ["direct", "USM, equal updates", "USM, equal epochs"]
    cells = [
        [words, *(_shown(find_cell(results, *place, column)) for column in columns)]
        for place, words in SUMMARY.items()
    ]
    return "\n".join(_markdown(["", *columns], cells)) + "\n"


def ratios(results: Results) -> str:
    """Table of ``problems_to_match``."""
    cells = []
    for column in ("USM, equal updates", "USM, equal epochs"):
        found = problems_to_match(results, column)
        cells.append([column, *(f"{r:.2f} [{low:.2f}, {high:.2f}]" for _, r, low, high in found)])
    sizes = list(EXPERIMENTS["words"].rows)[:-1]
    return "\n".join(_markdown(["", *sizes], cells)) + "\n"


OTHERS = {"summary": summary, "ratios": ratios}


def long_tables(results: Results) -> str:
    """One row per cell: all scores, differences, epochs, updates, seconds."""
    parts = ["# Every table in full\n", "Made by `python docs/results all`.\n"]
    header = ["", "", "seeds", "score", "from direct", "BLEU", "ROUGE-1, 2", "end", "segments"]
    header += ["epochs", "updates", "seconds", "time"]
    for name, experiment in EXPERIMENTS.items():
        cells = []
        for row in experiment.rows:
            for column in experiment.columns:
                cell = find_cell(results, name, row, column)
                if cell is not None:
                    cells.append([row, column, *_details(cell, experiment.cell(row, column)[1])])
        parts += [f"## {experiment.title}\n", "\n".join(_markdown(header, cells)) + "\n"]
    return "\n".join(parts)


def _details(cell: Cell, test: str) -> list[str]:
    tests = cell.rows[0]["tests"][test]
    rouge = ""
    if "rouge1" in tests:
        rouge = ", ".join(f"{_mean(cell, 'tests', test, n):.3f}" for n in ("rouge1", "rouge2"))
    epochs = [f"{_mean(cell, 'epochs_done', name):.1f}" for name in cell.rows[0]["epochs_done"]]
    return [
        str(len(cell.values)),
        _interval(cell.values),
        _difference(cell) if cell.differences else "",
        f"{_mean(cell, 'tests', test, 'bleu'):.1f}",
        rouge,
        f"{_mean(cell, 'tests', test, 'end'):.2f}",
        f"{_mean(cell, 'segments'):.1f}",
        ", ".join(epochs),
        f"{_mean(cell, 'updates'):.0f}",
        f"{np.median([row['seconds'] for row in cell.rows]):.0f}",
        "" if math.isnan(cell.time) else f"× {cell.time:.2f}",
    ]


# --- into the pages ------------------------------------------------------------------------------


def fill_pages(results: Results) -> None:
    """Fill the places in README.md and results.md."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        write_text(page, filled(text, results))


def filled(text: str, results: Results) -> str:
    """Replace everything between ``<!-- PLACE -->`` and ``<!-- end -->``.

    PLACE is an experiment's table ("words"), "summary", "ratios", or a cell like
    "words/1,000/USM, equal epochs/cell"; ".../gain" is its difference from direct.
    """

    def again(match: re.Match) -> str:
        place = match[1]
        if place in EXPERIMENTS:
            content = f"\n\n{table(place, results)}\n"
        elif place in OTHERS:
            content = f"\n\n{OTHERS[place](results)}\n"
        else:
            *where, what = place.split("/")
            cell = find_cell(results, *where)
            content = (
                "not run" if cell is None else _shown(cell) if what == "cell" else _difference(cell)
            )
        return f"<!-- {place} -->{content}<!-- end -->"

    places = "|".join([*EXPERIMENTS, *OTHERS, "[^<>]*/[^<>]*"])
    return re.sub(rf"<!-- ({places}) -->(?s:.*?)<!-- end -->", again, text)
