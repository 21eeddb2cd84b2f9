"""Write and score chains: predictions, results, notes about questions."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ases import parallel
from ases.data import Example, InputError, printable, refuse_if
from ases.decoding import Chain
from ases.metrics import is_correct, words_of
from ases.recipe import Writer, score_chains
from ases.run.checkpoints import FORMAT, OUTPUTS
from ases.run.cli import FILE_FLAGS, Options, colours_wanted
from ases.run.folder import Run, load_splits, pick_split, splits_of
from ases.run.page import evaluation_page
from ases.run.progress import Meter, print_line, print_note
from ases.run.read import read_curves, read_log, read_questions
from ases.run.scores import differences, same_problems, table
from ases.run.show import is_wrong, show_answer, show_wrong
from ases.run.write import check_place, json_lines, plural, write_text
from ases.tasks import TASKS


def evaluate(
    run: Run, examples: Sequence[Example], options: Options = Options()
) -> tuple[dict, list[dict]]:
    """Write and score chains: the contents of ``results.json`` and ``predictions.jsonl``."""
    writer, settings = run.writer, run.writer.settings
    started = time.perf_counter()
    part = write_chains(writer, parallel.shard(examples), options)
    chains = parallel.gather(part, len(examples))
    seconds = time.perf_counter() - started

    predictions = [prediction(settings.task, *row) for row in zip(examples, chains)]
    questions = [e.question for e in examples]
    results: dict = {"format": FORMAT, "run": run.config.run_id}
    results |= {"task": settings.task, "mode": settings.mode}
    results["segmentation"] = None if settings.mode == "direct" else settings.segmentation
    results |= score_chains(settings.task, examples, chains)
    results["problems"] = hashlib.sha256("\0".join(sorted(questions)).encode()).hexdigest()[:16]
    results["cut_questions"] = writer.count_shortened(questions)
    results |= {"beams": options.beams, "second_try": options.second_try}
    results["decode_seconds"] = round(seconds, 1)
    results["train_seconds"] = train_seconds(run.folder)
    if writer.reports:  # just trained
        results["training"] = writer.reports
    return results, predictions


def train_seconds(folder: Path) -> float | None:
    """Of a run, without its scorer's, from its log; None if that is lost."""
    with suppress(InputError, LookupError, TypeError):
        last = {row["model"]: row["seconds"] for row in read_log(folder)}
        last.pop("scorer", None)
        return round(sum(last.values()), 1) if last else None
    return None


def write_chains(writer: Writer, examples: Sequence[Example], options: Options) -> list[Chain]:
    """Write a chain for each example, with a progress bar."""
    questions = [e.question for e in examples]
    with closing(Meter("chains", len(examples))) as meter:
        return writer.write(questions, options.beams, options.second_try, meter.add)


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
    run: Run, examples: Sequence[Example], trained_on: Sequence[Example] | None = ()
) -> None:
    """Note questions that are too long, have unknown words, or were in training. ``trained_on``:
    the run's training split, None if it is gone."""
    writer, words = run.writer, run.config.words
    questions = [e.question for e in examples]
    asked = set(questions)
    if trained_on is None:
        print_note("note: this run's data is gone; its training questions are unknown")
    elif seen := len(asked & {e.question for e in trained_on}):
        print_note(f"note: {seen:,} of {len(asked):,} questions were in this run's training data")
    if n := writer.count_shortened(questions):
        long = f"{plural(n, 'question')} longer than {writer.settings.max_question} tokens"
        print_note(f"note: {long}; the middle is left out")
    known = set(words.split(" "))
    in_questions = dict.fromkeys(word for question in questions for word in words_of(question))
    if words and (unknown := [word for word in in_questions if word not in known]):
        more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
        print_note(f"note: never seen in training: {', '.join(unknown[:10])}{more}")


def write_evaluation(folder: Path, results: dict, lines: list[dict], suffix: str = "") -> None:
    """Write results.json and predictions.jsonl; ``suffix``: "-longer" for that split."""
    write_text(folder / f"predictions{suffix}.jsonl", json_lines(lines), follow=False)
    text = json.dumps(results, indent=2) + "\n"
    write_text(folder / f"results{suffix}.json", text, follow=False)


# --- what evaluate.py does -----------------------------------------------------------------------
def ask(runs: list[Run], options: Options, given: dict) -> None:
    """Answer questions that have no reference."""
    if options.question is not None:
        examples = [Example("question", options.question.strip(), "")]
    else:
        examples = read_questions(options.questions, given.get("question_field"))
    places = [evaluation_folder(run.folder, "", options) for run in runs if options.out_dir]
    for n, run in enumerate(runs):
        question_notes(run, examples)
        chains = write_chains(run.writer, examples, options)
        task = run.config.settings.task
        lines = json_lines(prediction(task, *row) for row in zip(examples, chains))
        if options.question is not None:
            print(f"{printable(run.folder)}\n{show_answer(chains[0], colours_wanted())}")
        elif not places:
            sys.stdout.write(lines)
        else:
            path = places[n] / "predictions.jsonl"
            write_text(path, lines, follow=False)
            print_line(f"written: {path}")


def score(runs: list[Run], options: Options, given: dict) -> None:
    """Write and score each run's chains for a split."""
    changes = {name: given[name] for name in ("data", *FILE_FLAGS.split()) if name in given}
    data, places, curves = [], [], {}
    for run in runs:
        data.append(examples_for(run, changes, options.split))
        _, split, description, _ = data[-1]
        print_line(f"{run.folder}: {description}")
        beams = f"beam{options.beams}" if options.beams > 1 else ""
        stem = Path(given.get("data", "")).stem
        parts = ["eval", split, stem, beams, "second-try" * options.second_try]
        places.append(evaluation_folder(run.folder, "-".join(filter(None, parts)), options))
        if options.report and (run.folder / "metrics.jsonl").exists():
            curves[str(run.folder)] = read_curves(run.folder)

    results, predictions, about = {}, {}, []
    for run, place, (examples, split, description, trained_on) in zip(runs, places, data):
        name = str(run.folder)
        about.append(f"{name}: {len(examples)} chains, {split}; {description}")
        print_line(f"{name}: writing {plural(len(examples), 'chain')} …")
        results[name], predictions[name] = evaluate(run, examples, options)
        write_evaluation(place, results[name], predictions[name])
        question_notes(run, examples, trained_on)
        for line in list(filter(is_wrong, predictions[name]))[: options.show_wrong]:
            print(f"\n{show_wrong(line)}")
    print_line(table(results))
    notes = same_problems(results) + differences(predictions)
    for note in notes:
        print_line(note)
    for place in places:
        print_line(f"written: {place}/predictions.jsonl and results.json")
    if options.report:
        page = evaluation_page(results, predictions, curves, notes + about)
        write_text(Path(options.report), page)
        print_line(f"written: {options.report}")


def examples_for(
    run: Run, changes: dict[str, Any], split: str | None
) -> tuple[list[Example], str, str, list[Example] | None]:
    """A split of the run's own data (default: test) or of another file (default: all of it).

    ``changes``: to the run's data settings. If the run's own data has moved, it is split as before.
    Returns examples, split, a line about them, and the run's training split, None if it is gone.
    """
    moved, trained_on = replace(run.config.settings, **changes), None
    try:
        splits, description = splits_of(run.folder, replace(run.config, settings=moved))
        split, trained_on = split or "test", splits["train"]
    except InputError:
        if not changes:
            raise
        split = split or "all"  # of another file
        whole = replace(moved, train_problems=None, test_problems=None)
        splits, description = load_splits(whole, split == "all")
        with suppress(InputError):
            trained_on = splits_of(run.folder, run.config)[0]["train"]
    return pick_split(splits, split), split, description, trained_on


def evaluation_folder(run: Path, name: str, options: Options) -> Path:
    """Where a run's results go: its subfolder ``name``, whose older results they replace, or
    --out-dir. Creates nothing. Raises InputError: --out-dir holds more than results to overwrite.
    """
    if options.out_dir is None:
        place = run / name
        refuse_if(place.is_symlink(), place, "a link; remove it, or set --out-dir")
    else:
        place = Path(options.out_dir) / (run.resolve().name if len(options.run) > 1 else "")
        held = {path.name for path in place.iterdir()} if place.is_dir() else set()
        refuse_if(held - set(OUTPUTS), place, "holds other files; choose another --out-dir")
        refuse_if(held and not options.overwrite, place, "holds results already; pass --overwrite")
    check_place(place / "results.json")
    return place
