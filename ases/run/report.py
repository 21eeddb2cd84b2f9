"""What a run's chains look like on disk and on a screen: predictions, results, tables."""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ases.answers import parse_answer
from ases.beam import beam_search
from ases.data import Example
from ases.decoding import Chain, Search
from ases.metrics import is_correct
from ases.pairs import Segmented
from ases.recipe import ChainWriter, score_chains
from ases.run.files import write_text

COLOURS = {"ES": "\033[34m", "AS": "\033[32m"}  # blue and green


def search_of_width(beams: int) -> Search | None:
    return None if beams == 1 else partial(beam_search, width=beams)


def evaluate(
    writer: ChainWriter, examples: Sequence[Example], beams: int = 1
) -> tuple[dict, list[dict]]:
    """Write a chain for each example and score it: the content of ``results.json`` and
    ``predictions.jsonl``."""
    config = writer.recipe
    started = time.perf_counter()
    questions = [e.question for e in examples]
    chains = writer.write(questions, search_of_width(beams), 65536 // beams)
    seconds = time.perf_counter() - started

    texts = writer.texts(chains)
    predictions = [_prediction(writer, *row) for row in zip(examples, chains, texts)]
    results = {
        "task": config.data.task,
        "mode": config.mode,
        "segmentation": None if config.mode == "direct" else config.segmentation.segmentation,
    }
    results |= score_chains(config.data.task, examples, texts, chains)
    results["cut_questions"] = writer.cut_questions(questions)
    results |= {"beams": beams, "decode_seconds": round(seconds, 1)}
    return results, predictions


def _prediction(writer: ChainWriter, example: Example, chain: Chain, text: str) -> dict:
    line = {
        "id": example.id,
        "question": example.question,
        "reference": example.answer,
        "prediction": text,
        "stop": chain.stop,
        "rounds": len(chain.segments),
        "segments": [
            {"role": role, "text": writer.tokenizer.decode(ids)} for role, ids in chain.segments
        ],
    }
    if writer.recipe.data.task == "mwp":
        number = parse_answer(text)
        line["answer"] = None if number is None else str(number)
        line["correct"] = is_correct(text, example.answer)
    return line


def answer(writer: ChainWriter, question: str, beams: int = 1) -> str:
    """The chain for one question, to read: segments with their roles, stop reason, number."""
    _, [line] = evaluate(writer, [Example("question", question, "")], beams)
    segments = [(segment["role"], segment["text"]) for segment in line["segments"]]
    number = f"; answer: {line['answer']}" if line.get("answer") else ""
    return f"{show_segments(segments)}\n  stopped by {line['stop']}{number}"


def write_evaluation(
    folder: Path, results: dict, predictions: list[dict], suffix: str = ""
) -> None:
    lines = [json.dumps(p, ensure_ascii=False) + "\n" for p in predictions]
    write_text(folder / f"predictions{suffix}.jsonl", "".join(lines))
    write_text(folder / f"results{suffix}.json", json.dumps(results, indent=2) + "\n")


def training_seconds(folder: Path) -> float | None:
    """What ``results.json`` says of it; None for a run that was stopped before its evaluation."""
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))["train_seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- to read -------------------------------------------------------------------------------------

_SHARE = "{:.3f}".format
_PLAIN = "{:.1f}".format
#: Columns of the table, and how their numbers are shown.
_COLUMNS: dict[str, Callable[[float], str]] = {
    "n": str,
    "accuracy": _SHARE,
    "accuracy_strict": _SHARE,
    "bleu": _PLAIN,
    "rouge1": _SHARE,
    "rouge2": _SHARE,
    "rougeL": _SHARE,
    "exact_match": _SHARE,
    "parseable": _SHARE,
    "rounds_mean": _PLAIN,
    "train_seconds": _PLAIN,
}


def table(rows: dict[str, dict]) -> str:
    """Results side by side, one column for each run or split, and a line for each score."""
    lines = [["", *rows]]
    for column, shown in _COLUMNS.items():
        values = [results.get(column) for results in rows.values()]
        if any(value is not None for value in values):
            of_characters = (
                column.startswith("rouge")
                and next(iter(rows.values()))["rouge_tokens"] == "characters"
            )
            name = f"{column} (char)" if of_characters else column
            lines.append([name, *("-" if value is None else shown(value) for value in values)])
    for reason in ("end", "rounds", "length", "stuck"):
        shares = [results["stop_reasons"][reason] for results in rows.values()]
        if any(shares):
            lines.append([f"stop: {reason}", *map(_SHARE, shares)])

    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(_table_line(line, widths) for line in lines)


def _table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join(
        [first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]
    ).rstrip()


def show_segments(segments: Sequence[tuple[str, str]], colour: bool = False) -> str:
    """(role, text) of each segment, a line each."""
    lines = []
    for role, text in segments:
        text = text.strip() or "(empty)"
        if colour:
            text = f"{COLOURS.get(role, '')}{text}\033[0m"
        lines.append(f"  {role} {text}")
    return "\n".join(lines)


# --- of segmentation -----------------------------------------------------------------------------


def segmented_line(s: Segmented) -> str:
    """A JSON line of what segmentation made of an example."""
    entropies = s.entropies or [None] * len(s.pieces)
    pieces = [
        {"text": text, "label": label, "entropy": entropy}
        for text, label, entropy in zip(s.pieces, s.labels, entropies)
    ]
    segments = [{"label": part.label, "text": part.text} for part in s.segments]
    example = {"id": s.example.id, "question": s.example.question, "answer": s.example.answer}
    return json.dumps(example | {"pieces": pieces, "segments": segments}, ensure_ascii=False) + "\n"


def segmented_summary(segmented: Sequence[Segmented], found: dict | None) -> str:
    """How much was cut into what, and how well labels agree with true roles where those are
    known."""
    labels = [label for s in segmented for label in s.labels]
    lossless = sum("".join(s.pieces) == s.example.answer for s in segmented)
    lines = [
        f"{len(segmented)} chains, {len(labels)} pieces, {labels.count('AS') / len(labels):.1%} "
        "AS, "
        f"{sum(len(s.segments) for s in segmented)} segments; "
        f"{lossless} of {len(segmented)} chains are their pieces joined"
    ]
    for role, f in (found or {}).items():
        lines.append(
            f"agreement with the true roles: {role} "
            f"precision {f['precision']:.3f}, recall {f['recall']:.3f}, F1 {f['f1']:.3f}"
        )
    return "\n".join(lines)
