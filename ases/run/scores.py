"""The table of scores, and what each score means."""

from string import ascii_uppercase

from ases.settings import STOPS

WIDTH = 80

#: Row → (number format, meaning).
SCORES = {
    "n": ("{}", "chains that were written and scored"),
    "accuracy": ("{:.3f}", "share whose stated answer is the reference's number"),
    "accuracy_strict": ("{:.3f}", "the same, and equal as strings (GSM8K's rule)"),
    "bleu": ("{:.1f}", "n-grams shared with the reference, 0 to 100 (sacrebleu's)"),
    "rouge_tokens": ("{}", "ROUGE's unit, if not Google's words"),
    "rouge1": ("{:.3f}", "F1 of shared words or characters"),
    "rouge2": ("{:.3f}", "F1 of shared pairs of them"),
    "rougeL": ("{:.3f}", "F1 of the longest common subsequence"),
    "exact_match": ("{:.3f}", "share equal to the reference, white space aside"),
    "parseable": ("{:.3f}", "share that states a number as its answer"),
    "rounds_mean": ("{:.1f}", "mean number of segments"),
    "train_seconds": ("{:.1f}", "training time of the run, without a scorer's"),
} | {f"stop: {reason}": ("{:.3f}", f"share that {text}") for reason, text in STOPS.items()}


def explained() -> str:
    """The meaning of each row, for --help."""
    lines = ["scores, with 95 % intervals (Wilson's for shares, bootstrap for BLEU and ROUGE):"]
    lines += [f"  {name:<16} {text}" for name, (_, text) in SCORES.items()]
    return "\n".join(lines)


def table(columns: dict[str, dict]) -> str:
    """Scores by run or split, 80 characters wide; long names become letters, wide tables split."""
    legend = []
    if sum(map(len, columns)) + 3 * len(columns) + 16 > WIDTH:
        letters = [*ascii_uppercase, *map(str, range(27, 1000))]
        legend = [f"{letter} = {name}" for letter, name in zip(letters, columns)]
        columns = dict(zip(letters, columns.values()))

    lines = [["", *columns], *([row["name"], *row["cells"]] for row in score_rows(columns))]
    first, *widths = [max(map(len, column)) for column in zip(*lines)]
    parts, n = ["\n".join(legend)] if legend else [], max(1, (WIDTH - first) // (max(widths) + 2))
    for part in (slice(begin, begin + n) for begin in range(0, len(widths), n)):
        rows = []
        for name, *cells in lines:
            own = "".join(f"  {c:>{w}}" for c, w in zip(cells[part], widths[part]))
            rows.append(f"{name:<{first}}{own}".rstrip())
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def score_rows(columns: dict[str, dict]) -> list[dict]:
    """Non-empty rows: name, meaning, cells like "0.982 [0.966, 0.991]"."""
    rows = []
    for name, (form, meaning) in SCORES.items():
        reason, cells = name.removeprefix("stop: "), []
        values = [r.get(name, r["stop_reasons"].get(reason)) for r in columns.values()]
        for value, results in zip(values, columns.values()):
            missing = value in (None, "words")  # ROUGE's usual tokens
            interval = ", ".join(map(form.format, results["intervals"].get(name, ())))
            cells.append("" if missing else form.format(value) + (interval and f" [{interval}]"))
        if any(cells) and (name == reason or any(values)):
            rows.append({"name": name, "meaning": meaning, "cells": cells})
    return rows


def same_problems(results: dict[str, dict]) -> str:
    """A note if runs were scored on different problems, else ""."""
    groups: dict[str, list[str]] = {}
    for name, found in results.items():
        groups.setdefault(found["problems"], []).append(name)
    told = "; ".join(", ".join(names) for names in groups.values())
    note = f"note: not scored on the same problems: {told}; compare within a group only"
    return note if len(groups) > 1 else ""
