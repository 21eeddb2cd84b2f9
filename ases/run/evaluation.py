"""Write and score chains: predictions, results, notes about questions."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from ases import parallel
from ases.data import Example, InputError, shown
from ases.decoding import Chain
from ases.metrics import is_correct, words_of
from ases.recipe import Writer, score_chains
from ases.run.checkpoints import FORMAT
from ases.run.cli import OF_FILES, Options, colours_wanted
from ases.run.folder import RunConfig, evaluation_folders, examples_for
from ases.run.page import evaluation_page
from ases.run.progress import Meter, say, tell
from ases.run.read import LOG, read_curves, read_questions, read_rows
from ases.run.scores import differences, same_problems, table
from ases.run.show import is_wrong, show_answer, show_wrong
from ases.run.write import check_place, counted, json_lines, write_text
from ases.tasks import TASKS


def evaluate(
    writer: Writer,
    run_id: str,
    examples: Sequence[Example],
    beams: int = 1,
    second_try: bool = False,
) -> tuple[dict, list[dict]]:
    """Write and score chains: the contents of ``results.json`` and ``predictions.jsonl``."""
    settings, task = writer.settings, writer.settings.task
    started = time.perf_counter()
    part = write_chains(writer, parallel.own_part(examples), beams, second_try)
    chains = parallel.gather(part, len(examples))
    seconds = time.perf_counter() - started

    predictions = [prediction(task, *row) for row in zip(examples, chains)]
    questions = [e.question for e in examples]
    results: dict = {"format": FORMAT, "run": run_id, "task": task, "mode": settings.mode}
    labels = None if settings.mode == "direct" else settings.segmentation
    results |= {"segmentation": labels} | score_chains(task, examples, chains)
    results["problems"] = hashlib.sha256("\0".join(sorted(questions)).encode()).hexdigest()[:16]
    results["cut_questions"] = writer.count_shortened(questions)
    results |= {"beams": beams, "second_try": second_try, "decode_seconds": round(seconds, 1)}
    if reports := writer.reports:  # just trained; the scorer's time is separate
        times = {name: report["seconds"] for name, report in reports.items()}
        scorer = times.pop("scorer", None)
        results |= {"train_seconds": round(sum(times.values()), 1), "scorer_seconds": scorer}
        results["training"] = reports
    return results, predictions


def write_chains(
    writer: Writer, examples: Sequence[Example], beams: int = 1, second_try: bool = False
) -> list[Chain]:
    """Write a chain for each example, with a progress bar."""
    questions = [e.question for e in examples]
    with closing(Meter("chains", len(examples))) as meter:
        return writer.write(questions, beams, second_try, meter.add)


def prediction(task: str, example: Example, chain: Chain) -> dict:
    """A line of ``predictions.jsonl``; without a reference, no fields that need one."""
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
    writer: Writer,
    words: str,
    questions: Sequence[str],
    show: Callable[[str], None],
    trained_on: Sequence[Example] | None = (),
) -> None:
    """Note questions that are too long, have unknown words, or were in training.
    ``words``: those in training; ``trained_on``: the run's training split, None if it is gone."""
    asked = set(questions)
    if trained_on is None:
        show("note: this run's data is gone; its training questions are unknown")
    elif seen := len(asked & {e.question for e in trained_on}):
        show(f"note: {seen:,} of {len(asked):,} questions were in this run's training data")
    if n := writer.count_shortened(questions):
        long = f"{counted(n, 'question')} longer than {writer.settings.max_question} tokens"
        show(f"note: {long}; the middle is left out")
    known = set(words.split(" "))
    in_questions = dict.fromkeys(word for question in questions for word in words_of(question))
    if words and (unknown := [word for word in in_questions if word not in known]):
        more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
        show(f"note: never seen in training: {', '.join(unknown[:10])}{more}")


def write_evaluation(
    folder: Path, results: dict, predictions: list[dict], suffix: str = ""
) -> None:
    """Write both files."""
    write_text(folder / f"predictions{suffix}.jsonl", json_lines(predictions), follow=False)
    results_text = json.dumps(results, indent=2) + "\n"
    write_text(folder / f"results{suffix}.json", results_text, follow=False)


def train_seconds(folder: Path) -> float | None:
    """Of a run, without its scorer's, from its log; None if that is lost."""
    with suppress(InputError, LookupError, TypeError):
        last = {row["model"]: row["seconds"] for row in read_rows(folder / "metrics.jsonl", LOG)}
        last.pop("scorer", None)
        return round(sum(last.values()), 1) if last else None
    return None


# --- what evaluate.py does -----------------------------------------------------------------------
#: By folder.
Runs = dict[Path, tuple[RunConfig, Writer]]


def ask(runs: Runs, options: Options, given: dict) -> None:
    """Answer questions that have no reference."""
    if options.question is not None:
        examples = [Example("question", options.question.strip(), "")]
    else:
        examples = read_questions(options.questions, given.get("question_field"))
    outputs = {}
    if options.out_dir is not None:
        outputs = evaluation_folders(runs, {}, options.out_dir, options.overwrite)
    for folder, (config, writer) in runs.items():
        question_notes(writer, config.words, [e.question for e in examples], say)
        chains = write_chains(writer, examples, options.beams, options.second_try)
        if options.question is not None:
            print(f"{shown(folder)}\n{show_answer(chains[0], colours_wanted())}")
            continue
        rows = zip(examples, chains)
        lines = json_lines([prediction(writer.settings.task, *row) for row in rows])
        if outputs:
            path = outputs[folder] / "predictions.jsonl"
            write_text(path, lines, follow=False)
            tell(f"written: {path}")
        else:
            sys.stdout.write(lines)


def score(runs: Runs, options: Options, given: dict) -> None:
    """Write and score each run's chains for a split."""
    curves = {}
    if options.report:
        check_place(Path(options.report))
        logs = [folder for folder in runs if (folder / "metrics.jsonl").exists()]
        curves = {str(folder): read_curves(folder) for folder in logs}
    changes = {name: given[name] for name in ("data", *OF_FILES.split()) if name in given}
    asked, names = {}, {}
    for folder, (config, _) in runs.items():
        asked[folder] = examples_for(folder, config, changes, options.split)
        _, split, description, _ = asked[folder]
        tell(f"{folder}: {description}")
        stem = Path(given.get("data", "")).stem
        beams = f"beam{options.beams}" if options.beams > 1 else ""
        parts = ["eval", split, stem, beams, "second-try" * options.second_try]
        names[folder] = "-".join(filter(None, parts))
    outputs = evaluation_folders(runs, names, options.out_dir, options.overwrite)

    rows, predictions, about = {}, {}, []
    for folder, (examples, split, description, trained_on) in asked.items():
        about.append(f"{folder}: {len(examples)} chains, {split}; {description}")
        tell(f"{folder}: writing {counted(len(examples), 'chain')} …")
        config, writer = runs[folder]
        results, written = evaluate(
            writer, config.run_id, examples, options.beams, options.second_try
        )
        results["train_seconds"] = train_seconds(folder)
        write_evaluation(outputs[folder], results, written)
        rows[str(folder)], predictions[str(folder)] = results, written
        question_notes(writer, config.words, [e.question for e in examples], tell, trained_on)
        for line in [line for line in written if is_wrong(line)][: options.show_wrong]:
            print(f"\n{show_wrong(line)}")
    tell(table(rows))
    compared = [line for line in (same_problems(rows), *differences(predictions)) if line]
    for note in compared:
        tell(note)
    for path in outputs.values():
        tell(f"written: {path}/predictions.jsonl and results.json")
    if options.report:
        write_text(
            Path(options.report), evaluation_page(rows, predictions, curves, compared + about)
        )
        tell(f"written: {options.report}")
