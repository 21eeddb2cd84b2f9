"""Scores side by side, and what each of them says."""

from string import ascii_uppercase

from ases.settings import STOPS

WIDTH = 80

#: Rows of the table: how their numbers are shown, and what they are.
SCORES = {
    "n": ("{}", "chains that were written and scored"),
    "accuracy": ("{:.3f}", "share whose stated answer is the reference's number"),
    "accuracy_strict": ("{:.3f}", "GSM8K's own rule: the same, compared as text"),
    "bleu": ("{:.1f}", "n-grams shared with the reference, 0 to 100 (sacrebleu's)"),
    "rouge_tokens": ("{}", "what ROUGE counts, where that is not Google's words"),
    "rouge1": ("{:.3f}", "F1 of shared words or characters"),
    "rouge2": ("{:.3f}", "F1 of shared pairs of them"),
    "rougeL": ("{:.3f}", "F1 of the longest common subsequence"),
    "exact_match": ("{:.3f}", "share equal to the reference, white space aside"),
    "parseable": ("{:.3f}", "share that states a number as its answer"),
    "rounds_mean": ("{:.1f}", "mean number of segments"),
    "train_seconds": ("{:.1f}", "training time of the run, without a scorer's"),
}


def explained() -> str:
    """What each row of the table says, a line each."""
    lines = ["scores, with 95 % intervals (Wilson's for shares, bootstrap for BLEU and ROUGE):"]
    lines += [f"  {name:<16} {text}" for name, (_, text) in SCORES.items()]
    lines += [f"  {'stop: ' + name:<16} share that {text}" for name, text in STOPS.items()]
    return "\n".join(lines)


def table(columns: dict[str, dict]) -> str:
    """Results side by side, 80 columns wide: a column for each run or split, a line for each score.

    Long names become letters, and what is too wide becomes several tables.
    """
    legend = []
    if sum(map(len, columns)) + 3 * len(columns) + 16 > WIDTH:
        letters = [*ascii_uppercase, *map(str, range(27, 1000))]
        legend = [f"{letter} = {name}" for letter, name in zip(letters, columns)]
        columns = dict(zip(letters, columns.values()))

    lines = [["", *columns]]
    for row in score_rows(columns):
        lines.append([row["name"], *(row.get("cells") or map("{:.3f}".format, row["shares"]))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    parts, begin, room = [], 1, WIDTH - widths[0]
    while begin < len(widths):
        end = begin + 1
        while end < len(widths) and sum(w + 2 for w in widths[begin : end + 1]) <= room:
            end += 1
        rows = []
        for name, *cells in lines:
            columns_ = zip(cells[begin - 1 : end - 1], widths[begin:end])
            rows.append(f"{name:<{widths[0]}}" + "".join(f"  {c:>{w}}" for c, w in columns_))
        parts.append("\n".join(map(str.rstrip, rows)))
        begin = end
    return "\n\n".join(["\n".join(legend), *parts] if legend else parts)


def score_rows(columns: dict[str, dict]) -> list[dict]:
    """The rows of a table that hold something: name, meaning, and cells, or shares of stops."""
    rows: list[dict] = []
    for name, (_, meaning) in SCORES.items():
        cells = [score_cell(results, name) for results in columns.values()]
        rows += [{"name": name, "meaning": meaning, "cells": cells}] if any(cells) else []
    for reason, meaning in STOPS.items():
        shares = [results["stop_reasons"].get(reason, 0.0) for results in columns.values()]
        name = f"stop: {reason}"
        rows += [{"name": name, "meaning": meaning, "shares": shares}] if any(shares) else []
    return rows


def score_cell(results: dict, name: str) -> str:
    """A score with its interval, "0.982 [0.966, 0.991]"; "" where there is none."""
    value, shown = results.get(name), SCORES[name][0]
    if value is None or value == "words":  # of ROUGE, as is usual
        return ""
    text = shown.format(value)
    if name in results.get("intervals", {}):
        low, high = map(shown.format, results["intervals"][name])
        text += f" [{low}, {high}]"
    return text


def same_problems(results: dict[str, dict]) -> str:
    """A note that tells runs apart that were scored on different problems; "" if none were."""
    groups: dict[str, list[str]] = {}
    for name, found in results.items():
        groups.setdefault(found["problems"], []).append(name)
    told = "; ".join(", ".join(names) for names in groups.values())
    note = f"note: not scored on the same problems: {told}; compare within a group only"
    return note if len(groups) > 1 else ""
