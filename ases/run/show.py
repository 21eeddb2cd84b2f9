"""Chains of thought as terminal text: segments, entropies, a chain above its reference."""

import re
from collections.abc import Sequence

from ases.data import printable
from ases.decoding import Chain
from ases.metrics import role_agreement
from ases.pairs import Segmented
from ases.run.write import plural
from ases.segmentation import AS, RULES, split_pieces
from ases.settings import CHAIN, Settings

COLOURS = {"ES": "\033[34m", "AS": "\033[33m"}  # blue and yellow: safe for colour-blind readers


def show_segment(role: str, text: str, colour: bool = False) -> str:
    """The role, then the lines of a text below one another."""
    indent = " " * (len(role) + 3)
    lines = [line.strip() for line in printable(text).strip().splitlines()] or ["(empty)"]
    if colour and role in COLOURS:
        lines = [f"{COLOURS[role]}{line}\033[0m" for line in lines]
    return f"  {role} " + f"\n{indent}".join(lines)


def show_answer(chain: Chain, colour: bool = False) -> str:
    """A chain: segments with their roles, stop reason, number."""
    number = "" if chain.number is None else f"; answer: {chain.number}"
    lines = [show_segment(role, text, colour) for role, text in chain.segments]
    return "\n".join([*lines, f"  stopped by {chain.stop}{number}"])


def show_segmented(s: Segmented, colour: bool = False) -> str:
    """An example with its segments; "|" separates pieces, each followed by its entropy."""
    about = printable(f"[{s.example.id}] {s.example.question}").rstrip()
    lines = [about] if s.example.question else []
    entropies = iter(s.entropies or [])
    for segment in s.segments:
        pieces = [piece.strip() for piece in segment.pieces]
        if s.entropies:
            pieces = [f"{piece} (H {next(entropies):.2f})" for piece in pieces]
        lines.append(show_segment(segment.label, " | ".join(pieces), colour))
    if s.entropies:
        lines.append(f"  mean H: {sum(s.entropies) / len(s.entropies):.2f} nats")
    return "\n".join(lines)


def segmented_summary(segmented: Sequence[Segmented], settings: Settings) -> str:
    """Counts of pieces and segments, and agreement with the true roles, where known."""
    labels = [label for s in segmented for label in s.labels]
    lossless = sum("".join(s.pieces) == s.example.answer for s in segmented)
    n_segments = sum(len(s.segments) for s in segmented)
    share, n = labels.count(AS) / max(1, len(labels)), len(segmented)
    what = f"{plural(len(labels), 'piece')}, {share:.1%} AS, {plural(n_segments, 'segment')}"
    lines = [f"{plural(n, 'chain')}, {what}; pieces joined equal the chain in {lossless} of {n}"]
    lines.append(RULES[settings.segmentation].words)
    known = [s for s in segmented if s.example.gold]
    gold = [[role for role, _ in s.example.gold] for s in known]
    agreement = role_agreement(gold, [s.labels for s in known]) if known else {}
    for role, f in agreement.items():
        message = f"precision {f['precision']:.3f}, recall {f['recall']:.3f}, F1 {f['f1']:.3f}"
        lines.append(f"agreement with the true roles: {role} {message}")
    return "\n".join(lines)


def segmented_row(s: Segmented) -> dict:
    """An example with its pieces and segments, for a JSON line."""
    rows = zip(s.pieces, s.labels, s.entropies or [None] * len(s.pieces))
    pieces = [dict(zip(("text", "label", "entropy"), row)) for row in rows]
    segments = [{"label": part.label, "text": part.text} for part in s.segments]
    example = {"id": s.example.id, "question": s.example.question, "answer": s.example.answer}
    return example | {"pieces": pieces, "segments": segments}


# --- wrong chains --------------------------------------------------------------------------------

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def is_wrong(line: dict) -> bool:
    """Whether a prediction has the wrong number or, in tasks without numbers, the wrong text."""
    if "correct" in line:
        return not line["correct"]
    return line["prediction"].split() != line["reference"].split()


def parts_of(line: dict) -> list[tuple[str, str]]:
    """(role, text) of each segment; of each piece, with role "", for a direct chain."""
    segments = [(segment["role"], segment["text"]) for segment in line["segments"]]
    if len(segments) == 1 and segments[0][0] == CHAIN:
        return [("", piece) for piece in split_pieces(segments[0][1])]
    return segments


def first_difference(line: dict) -> int | None:
    """Index of the first part that differs from the reference, or None. A chain that ends too
    early differs in its last part."""
    # Compare numbers first, since wording varies; if they agree, or there are none, pieces.
    texts, reference = [text for _, text in parts_of(line)], line["reference"]
    if "correct" in line:
        place = _first_mismatch([_NUMBER.findall(t) for t in texts], _NUMBER.findall(reference))
        if place is not None:
            return place
    pieces = [[p.strip() for p in split_pieces(t)] for t in texts]
    return _first_mismatch(pieces, [p.strip() for p in split_pieces(reference)])


def _first_mismatch(units: Sequence[Sequence[str]], reference: Sequence[str]) -> int | None:
    flat = [(place, unit) for place, parts in enumerate(units) for unit in parts]
    for n, (place, unit) in enumerate(flat):
        if [unit] != reference[n : n + 1]:
            return place
    return None if len(flat) == len(reference) else max(0, len(units) - 1)


def show_wrong(line: dict) -> str:
    """A chain above its reference; ">" marks the first part that differs."""
    first = first_difference(line)
    rows = [printable(f"[{line['id']}] {line['question']}"), "  written:"]
    for n, (role, text) in enumerate(parts_of(line)):
        row = show_segment(role, text)
        rows.append(f"> {row[2:]}" if n == first else row)
    rows.append("  reference:")
    rows += [show_segment("", piece) for piece in split_pieces(line["reference"])]
    label = f"; the true answer is {line['label']}" if "label" in line else ""
    return "\n".join([*rows, printable(f"  stopped by {line['stop']}{label}")])
