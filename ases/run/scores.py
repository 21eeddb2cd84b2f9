"""The table of scores, and what each score means."""

from ases.metrics import mean_interval, rouge_l
from ases.settings import STOPS

#: Row → (number format, meaning).
SCORES = {
    "n": ("{}", "chains that were written and scored"),
    "accuracy": ("{:.3f}", "share whose stated answer is the reference's number"),
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


def score_help() -> str:
    """The meaning of each row, for --help."""
    lines = ["scores, with 95 % intervals (Wilson's for shares, bootstrap for BLEU and ROUGE):"]
    lines += [f"  {name:<16} {text}" for name, (_, text) in SCORES.items()]
    return "\n".join(lines)


def table(columns: dict[str, dict]) -> str:
    """Scores by run or split, one row each."""
    lines = [["", *columns], *([row["name"], *row["cells"]] for row in score_rows(columns))]
    widths = [max(map(len, column)) for column in zip(*lines)]
    rows = []
    for name, *cells in lines:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:])]
        rows.append("  ".join([f"{name:<{widths[0]}}", *padded]).rstrip())
    return "\n".join(rows)


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


def same_problems(results: dict[str, dict]) -> list[str]:
    """A note if runs were scored on different problems."""
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        groups.setdefault(result["problems"], []).append(name)
    runs = "; ".join(", ".join(names) for names in groups.values())
    note = f"note: not scored on the same problems: {runs}; compare within a group only"
    return [note] if len(groups) > 1 else []


def differences(predictions: dict[str, list[dict]]) -> list[str]:
    """How later runs differ from the first, question by question; none on other questions."""
    (first, lines), *others = predictions.items()
    questions, shown = [line["question"] for line in lines], []
    for name, other_lines in others:
        if [line["question"] for line in other_lines] != questions:
            continue
        parts = []
        for score, values in (("accuracy", _correct), ("rougeL", _rouge_l)):
            if (ours := values(other_lines)) and (theirs := values(lines)):
                gains = [a - b for a, b in zip(ours, theirs, strict=True)]
                mean, low, high = mean_interval(gains, questions)
                parts.append(f"{score} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        shown.append(f"{name} minus {first}, on the same questions: {', '.join(parts)}")
    return shown


def _correct(lines: list[dict]) -> list[float]:
    return [float(line["correct"]) for line in lines if "correct" in line]


def _rouge_l(lines: list[dict]) -> list[float]:
    return rouge_l([line["prediction"] for line in lines], [line["reference"] for line in lines])
