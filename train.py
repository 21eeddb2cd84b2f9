#!/usr/bin/env python3
"""From data to a scored test set: `python train.py --task mwp --mode usm`."""

import shlex
import signal
from contextlib import suppress
from functools import partial

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import InputError
from ases.run.cli import parse, run_command, settings_help
from ases.run.process import Interrupted, meeting

ABOUT = "Train on chains of thought, write chains for the test questions, score them."


@meeting()
def main() -> None:
    given = parse("train", ABOUT, settings_help())
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    from ases.extra.t5 import load_t5
    from ases.recipe import train
    from ases.run.checkpoints import Recorder
    from ases.run.evaluation import evaluate, question_notes, write_evaluation
    from ases.run.folder import empty_folder, open_run
    from ases.run.progress import tell
    from ases.run.scores import table
    from ases.run.write import counted

    run = open_run(given)
    initial = partial(load_t5, run.config.init) if run.config.init else None
    tell(f"run folder: {run.folder}")
    recorder = Recorder(run.folder, run.resumed, run.config.run_id)
    if recorder.writes:
        recorder.signals.install()
    try:
        parts: dict = dict(tokenizer=run.tokenizer, scorer=run.scorer, initial=initial)
        writer = train(run.splits, run.config, recorder, **parts)
        columns: dict = {}
        for split in [name for name in ("test", "longer") if name in run.splits]:
            examples = run.splits[split]
            tell(f"writing {counted(len(examples), 'chain')} for {split} …")
            columns[split], predictions = evaluate(writer, examples)
            if run.lock:
                suffix = "" if split == "test" else f"-{split}"
                write_evaluation(run.folder, columns[split], predictions, suffix)
            question_notes(writer, [e.question for e in examples], tell)
        print(table(columns))
    except (InputError, FloatingPointError, Interrupted) as error:
        if run.lock and not run.resumed and not list(run.folder.glob("*.pt")):
            empty_folder(run.folder)  # nothing was trained
            with suppress(OSError):  # it holds other files
                run.folder.rmdir()
        if isinstance(error, InputError):
            raise
        saved = recorder.saved or "nothing new is saved"
        if isinstance(error, FloatingPointError):
            raise InputError(f"{error} ({saved})") from None
        if (run.folder / "config.json").exists():
            saved += f". Continue with: python train.py --resume {shlex.quote(str(run.folder))}"
        raise Interrupted(f"stopped; {saved}", error.args[1]) from None


if __name__ == "__main__":
    run_command(main, alone=False)
