#!/usr/bin/env python3
"""From data to a scored test set: `python train.py --task mwp --mode usm`."""

import shlex
import signal

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import InputError
from ases.run.cli import parse, run_command
from ases.run.process import Interrupted, meeting

ABOUT = "Train on chains of thought, write chains for the test questions, score them."


@meeting()
def main() -> None:
    given = parse("train", ABOUT)
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    from ases.recipe import train
    from ases.run.checkpoints import Recorder
    from ases.run.folder import discard_folder, open_run
    from ases.run.progress import tell
    from ases.run.scores import table

    run = open_run(given)
    tell(f"run folder: {run.folder}")
    recorder = Recorder(run.folder, run.resumed, run.config.run_id)
    if recorder.writes:
        recorder.signals.install()
    try:
        parts: dict = dict(tokenizer=run.tokenizer, scorer=run.scorer, initial=run.initial)
        writer = train(run.splits, run.config, recorder, **parts)
        splits = [split for split in ("test", "longer") if split in run.splits]
        print(table({split: score(run, writer, split) for split in splits}))
    except (InputError, FloatingPointError, Interrupted) as error:
        if run.lock and not run.resumed and not list(run.folder.glob("*.pt")):
            discard_folder(run.folder)  # nothing was trained
        saved = recorder.saved or "nothing new is saved"
        if isinstance(error, InputError):
            raise
        if isinstance(error, FloatingPointError):
            raise InputError(f"{error} ({saved})") from None
        if run.folder.exists():
            again = f"python train.py --resume {shlex.quote(str(run.folder))}"
            saved = f"{saved}. Continue with: {again}"
        raise Interrupted(f"stopped; {saved}", error.number) from None


def score(run, writer, split: str) -> dict:
    """Write, score and save the chains of a split."""
    from ases.run.evaluation import evaluate, question_notes, training_facts, write_evaluation
    from ases.run.progress import tell
    from ases.run.write import counted

    examples = run.splits[split]
    tell(f"writing {counted(len(examples), 'chain')} for {split} …")
    results, predictions = evaluate(writer, examples)
    results |= training_facts(writer.reports)
    if run.lock:
        write_evaluation(run.folder, results, predictions, "" if split == "test" else f"-{split}")
    question_notes(writer, [e.question for e in examples], tell)
    return results


if __name__ == "__main__":
    run_command(main, alone=False)
