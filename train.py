#!/usr/bin/env python3
"""From data to a scored test set: `python train.py --task mwp --mode usm`."""

import signal

if __name__ == "__main__":  # Ctrl-C while modules load ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import InputError
from ases.run.command import parse, run_command
from ases.run.flags import TRAIN_FLAGS, train_complaints


def main() -> None:
    flags = parse(
        "Train on chains of thought, write chains for the test questions, score them.",
        TRAIN_FLAGS,
        train_complaints,
    )
    # Only here, for PyTorch takes its time, and --help and mistakes need not wait for it.
    from ases.recipe import train
    from ases.run.checkpoints import Recorder
    from ases.run.folder import discard_folder
    from ases.run.interrupt import Interrupted
    from ases.run.results import evaluate, question_notes, training_facts, write_evaluation
    from ases.run.start import start
    from ases.run.table import table

    run = start(flags)
    print(f"run folder: {run.folder}", flush=True)

    # The method from end to end is ases/recipe.py.
    recorder = Recorder(run.folder, run.resumed)
    recorder.signals.install()
    try:
        writer = train(
            run.splits,
            run.config,
            recorder,
            tokenizer=run.tokenizer,
            scorer=run.scorer,
            initial=run.initial,
        )
        rows = {}
        for split in ("test", "longer"):
            if split not in run.splits:
                continue
            print(f"writing {len(run.splits[split])} chains for {split} …", flush=True)
            results, predictions = evaluate(writer, run.splits[split])
            results |= training_facts(writer.reports)
            suffix = "" if split == "test" else f"-{split}"
            write_evaluation(run.folder, results, predictions, suffix)
            rows[split] = results
            for note in question_notes(writer, [e.question for e in run.splits[split]]):
                print(note)
    except ValueError as error:
        if not run.resumed and not list(run.folder.glob("*.pt")):
            discard_folder(run.folder)
        raise InputError(str(error)) from None
    except Interrupted as stop:
        told = f"stopped; {recorder.saved}. Continue with: python train.py --resume {run.folder}"
        raise Interrupted(told, stop.number) from None
    print(table(rows))


if __name__ == "__main__":
    run_command(main)
