"""Writing and scoring chains: predictions, results, and notes about questions."""

import hashlib
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ases import parallel
from ases.data import Example, InputError
from ases.decoding import Chain
from ases.extra.beam import beam_search
from ases.metrics import is_correct
from ases.recipe import Writer, score_chains
from ases.run.checkpoints import FORMAT
from ases.run.progress import Meter
from ases.run.read import read_json
from ases.run.write import counted, json_lines, write_text
from ases.tasks import TASKS


def evaluate(
    writer: Writer, examples: Sequence[Example], beams: int = 1, second_try: bool = False
) -> tuple[dict, list[dict]]:
    """Write a chain for each example and score it: the content of ``results.json`` and
    ``predictions.jsonl``."""
    config: Any = writer.settings  # a run's has its data, too
    started = time.perf_counter()
    own = write_chains(writer, parallel.own_part(examples), beams, second_try)
    chains = parallel.gather(own, len(examples))
    seconds = time.perf_counter() - started

    task = config.task
    predictions = [prediction(task, *row) for row in zip(examples, chains)]
    questions = [e.question for e in examples]
    results: dict = {"format": FORMAT, "run": config.run_id, "task": task, "mode": config.mode}
    labels = None if config.mode == "direct" else config.segmentation
    results |= {"segmentation": labels} | score_chains(task, examples, chains)
    results["problems"] = hashlib.sha256("\0".join(sorted(questions)).encode()).hexdigest()[:16]
    results["cut_questions"] = writer.cut_questions(questions)
    results |= {"beams": beams, "second_try": second_try, "decode_seconds": round(seconds, 1)}
    return results, predictions


def write_chains(
    writer: Writer, examples: Sequence[Example], beams: int = 1, second_try: bool = False
) -> list[Chain]:
    """A chain for each example, with a bar."""
    search = None if beams == 1 else partial(beam_search, width=beams)
    meter = Meter("chains", len(examples))
    try:
        return writer.write(
            [e.question for e in examples],
            search,
            65536 // beams,
            lambda n: meter.update(meter.done + n, f"{meter.done + n:.0f} of {len(examples)}"),
            beam_search if second_try else None,
        )
    finally:
        meter.close()


def prediction(task: str, example: Example, chain: Chain) -> dict:
    """A line of ``predictions.jsonl``; without a reference, it has nothing that compares with
    one."""
    line: dict = {"id": example.id, "question": example.question}
    if example.answer:
        line["reference"] = example.answer
    if example.gold:
        line["gold"] = [{"role": role, "text": piece} for role, piece in example.gold]
    line |= {
        "prediction": chain.text,
        "stop": chain.stop,
        "rounds": len(chain.segments),
        "segments": [{"role": role, "text": text} for role, text in chain.segments],
    }
    if TASKS[task].numbers:
        line["answer"] = None if chain.number is None else str(chain.number)
        if example.label is not None:
            line["label"] = example.label
        if example.answer:
            line["correct"] = is_correct(chain.text, example.reference)
    return line


def question_notes(
    writer: Writer, questions: Sequence[str], trained_on: Sequence[Example] | None = ()
) -> list[str]:
    """What a user should know of questions that a model can hardly answer, or knows already.
    ``trained_on``: the run's training split; None if it is gone."""
    notes, asked = [], set(questions)
    if trained_on is None:
        notes.append("note: this run's data is gone; which questions it was trained on is unknown")
    elif seen := len(asked & {e.question for e in trained_on}):
        shares = f"{seen:,} of {len(asked):,} questions"
        notes.append(f"note: {shares} were in this run's training data")
    if cut := writer.cut_questions(questions):
        limit = writer.settings.max_question
        long = counted(cut, "question")
        notes.append(f"note: {long} longer than {limit} tokens; the middle is left out")
    letters = [c for c in "".join(questions) if not c.isspace()]
    known = set(getattr(writer.settings, "characters", ""))
    unknown = [c for c in letters if c not in known]
    if unknown and known:
        some = " ".join(dict.fromkeys(unknown[:1000]))[:39]
        share = f"{len(unknown) / len(letters):.1%}"
        notes.append(f"note: {share} of the characters never occurred in training: {some}")
    return notes


def write_evaluation(
    folder: Path, results: dict, predictions: list[dict], suffix: str = ""
) -> None:
    """Both files, in a folder that is made if there is none."""
    lines = json_lines(predictions)
    results |= {"predictions_digest": hashlib.sha256(lines.encode()).hexdigest()}
    both = {f"predictions{suffix}.jsonl": lines}
    both[f"results{suffix}.json"] = json.dumps(results, indent=2) + "\n"
    for name, content in both.items():
        replace_text(folder / name, content)


def replace_text(path: Path, content: str) -> None:
    """Write a file; a link there is replaced, not followed."""
    if path.is_symlink():
        path.unlink()
    write_text(path, content)


def training_facts(reports: dict[str, dict]) -> dict:
    """What ``results.json`` says of the training; a scorer's time is told apart."""
    seconds = {name: report["seconds"] for name, report in reports.items()}
    scorer_seconds = seconds.pop("scorer", None)
    return {
        "train_seconds": round(sum(seconds.values()), 1),
        "scorer_seconds": scorer_seconds,
        "training": reports,
    }


def training_seconds(folder: Path) -> float | None:
    """What ``results.json`` says of it; None for a run that was stopped before its evaluation."""
    try:
        return read_json(folder / "results.json", "results")["train_seconds"]
    except (InputError, KeyError, TypeError):
        return None
