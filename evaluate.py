#!/usr/bin/env python3
"""Score trained runs, or ask one a question: `python evaluate.py --run runs/mwp-usm`."""

if __name__ == "__main__":  # Ctrl-C ends it without a traceback, also while modules load
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

from ases.data import Example, InputError, shown
from ases.run.cli import OF_FILES, Options, choose_device, colours_wanted, of, parse, run_command
from ases.run.read import PREDICTION, read_questions, read_rows
from ases.run.scores import explained, same_problems, table
from ases.run.write import check_place, counted, json_lines, write_text

ABOUT = "Score trained runs on a test set, or ask them questions."


def main() -> None:
    # PyTorch takes its time to load, which --help and mistakes need not wait for.
    given = parse("evaluate", ABOUT, explained())
    options = of(Options, given)
    written = [Path(run) / "predictions.jsonl" for run in options.run]
    if set(given) == {"run", "show_wrong"} and all(path.exists() for path in written):
        return show_wrong_ones(written, options.show_wrong)
    from ases.run.folder import load_run

    device = choose_device(options.device)
    writers = {Path(run): load_run(run, device) for run in options.run}
    if options.question is not None or options.questions is not None:
        ask(writers, options, given)
    else:
        score(writers, options, given)


def show_wrong_ones(written: list[Path], n: int) -> None:
    """Print wrong chains that train.py has written already."""
    from ases.run.show import is_wrong, show_wrong

    for path in written:
        try:
            lines = read_rows(path, PREDICTION)
            wrong = [line for line in lines if is_wrong(line)]
            told = [f"\n{show_wrong(line)}" for line in wrong[:n]]
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not the predictions of a run") from None
        print("\n".join([shown(f"{path}: {len(wrong)} of {len(lines)} wrong"), *told]))


def ask(writers: dict, options: Options, given: dict) -> None:
    """Answer questions that have no reference."""
    from ases.run.evaluation import prediction, question_notes, replace_text, write_chains
    from ases.run.progress import tell
    from ases.run.show import show_answer

    if options.question is not None:
        examples = [Example("question", options.question.strip(), "")]
    else:
        examples = read_questions(options.questions, given.get("question_field"))
    outputs = places(writers, {}, options) if options.out_dir is not None else {}
    for folder, writer in writers.items():
        for note in question_notes(writer, [e.question for e in examples]):
            print(shown(note), file=sys.stderr)
        chains = write_chains(writer, examples, options.beams, options.second_try)
        if options.question is not None:
            print(f"{shown(folder)}\n{show_answer(chains[0], colours_wanted())}")
            continue
        rows = zip(examples, chains)
        lines = json_lines([prediction(writer.settings.task, *row) for row in rows])
        if outputs:
            path = outputs[folder] / "predictions.jsonl"
            replace_text(path, lines)
            tell(f"written: {path}")
        else:
            sys.stdout.write(lines)


def places(writers: dict, names: dict, options: Options) -> dict:
    """The folder of each run's evaluation; without names, of its answers."""
    from ases.run.folder import evaluation_folder

    outputs = {}
    for run, writer in writers.items():
        out_dir = Path(options.out_dir) if options.out_dir else None
        if out_dir and len(writers) > 1:
            out_dir /= run.resolve().name
        owner = writer.settings.run_id if names else None
        place = evaluation_folder(run, owner, names.get(run), out_dir, options.overwrite)
        if place in outputs.values():
            raise InputError("--run names two folders of one name; leave --out-dir out")
        outputs[run] = place
    return outputs


def score(writers: dict, options: Options, given: dict) -> None:
    """Write a chain for each example of a split, and score them."""
    from ases.run.evaluation import evaluate, question_notes, training_seconds, write_evaluation
    from ases.run.folder import examples_for
    from ases.run.page import evaluation_page
    from ases.run.plot import read_curves
    from ases.run.progress import tell
    from ases.run.show import is_wrong, show_wrong

    curves = {}
    if options.report:
        check_place(Path(options.report))
        logs = [folder for folder in writers if (folder / "metrics.jsonl").exists()]
        curves = {str(folder): read_curves(folder) for folder in logs}
    changes = {name: given[name] for name in ("data", *OF_FILES.split()) if name in given}
    asked, names = {}, {}
    for folder, writer in writers.items():
        asked[folder] = examples_for(folder, writer.settings, changes, options.split)
        tell(f"{folder}: {asked[folder].description}")
        stem = Path(given["data"]).stem if "data" in given else ""
        beams = f"beam{options.beams}" if options.beams > 1 else ""
        parts = ["eval", asked[folder].split, stem, beams, "second-try" * options.second_try]
        names[folder] = "-".join(filter(None, parts))
    outputs = places(writers, names, options)

    rows, predictions, about = {}, {}, []
    for folder, writer in writers.items():
        examples, split = asked[folder].examples, asked[folder].split
        about.append(f"{folder}: {len(examples)} chains, {split}; {asked[folder].description}")
        tell(f"{folder}: writing {counted(len(examples), 'chain')} …")
        results, written = evaluate(writer, examples, options.beams, options.second_try)
        results["train_seconds"] = training_seconds(folder)
        write_evaluation(outputs[folder], results, written)
        rows[str(folder)], predictions[str(folder)] = results, written
        questions = [e.question for e in examples]
        for note in question_notes(writer, questions, asked[folder].trained_on):
            tell(note)
        for line in [line for line in written if is_wrong(line)][: options.show_wrong]:
            print(f"\n{show_wrong(line)}")
    tell(table(rows))
    if note := same_problems(rows):
        tell(note)
    for path in outputs.values():
        tell(f"written: {path}/predictions.jsonl and results.json")
    if options.report:
        write_text(Path(options.report), evaluation_page(rows, predictions, curves, about))
        tell(f"written: {options.report}")


if __name__ == "__main__":
    run_command(main)
