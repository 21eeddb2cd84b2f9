#!/usr/bin/env python3
"""From data to a scored test set: `python train.py --task mwp --mode usm`."""

import shlex
import signal

if __name__ == "__main__":  # Ctrl-C while modules load ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import InputError
from ases.run.command import parse, run_command
from ases.run.flags import TRAIN_FLAGS, train_complaints
from ases.run.processes import meeting


def main() -> None:
    flags = parse(
        "Train on chains of thought, write chains for the test questions, score them.",
        TRAIN_FLAGS,
        train_complaints,
    )
    with meeting():  # of the processes that torchrun has started
        learn_and_score(flags)


def learn_and_score(flags) -> None:
    # Only here, for PyTorch takes its time, and --help and mistakes need not wait for it.
    from ases.run.checkpoints import make_watcher
    from ases.run.interrupt import Interrupted
    from ases.run.progress import tell
    from ases.run.start import start
    from ases.run.table import table

    run = start(flags)
    tell(f"run folder: {run.folder}")
    watcher = make_watcher(run.folder, run.resumed, run.config.run_id)
    try:
        writer = learn(run, watcher)
        wanted = [split for split in ("test", "longer") if split in run.splits]
        rows: dict = {split: score(run, writer, split) for split in wanted}
    except FloatingPointError as error:
        raise InputError(f"{error} ({watcher.saved})") from None
    except Interrupted as stop:
        again = f"python train.py --resume {shlex.quote(str(run.folder))}"
        told = f"stopped; {watcher.saved}. Continue with: {again}"
        raise Interrupted(told, stop.number) from None
    print(table(rows))


def learn(run, watcher):
    """Train the sub-models; the method from end to end is ases/recipe.py."""
    from ases.recipe import train
    from ases.run.folder import discard_folder

    given = dict(tokenizer=run.tokenizer, scorer=run.scorer, initial=run.initial)
    try:
        return train(run.splits, run.config, watcher, **given)
    except ValueError as error:
        if run.lock and not run.resumed and not list(run.folder.glob("*.pt")):
            discard_folder(run.folder)
        raise InputError(str(error)) from None


def score(run, writer, split: str) -> dict:
    """Write and score the chains of a split, and leave both in the run's folder."""
    from ases.run.progress import tell
    from ases.run.results import evaluate, question_notes, training_facts, write_evaluation

    examples = run.splits[split]
    tell(f"writing {len(examples)} chains for {split} …")
    results, predictions = evaluate(writer, examples)
    results |= training_facts(writer.reports)
    if run.lock:
        write_evaluation(run.folder, results, predictions, "" if split == "test" else f"-{split}")
    for note in question_notes(writer, [e.question for e in examples]):
        tell(note)
    return results


if __name__ == "__main__":
    run_command(main, alone=False)
