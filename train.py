#!/usr/bin/env python3
"""From data to a scored test set: `python train.py --task mwp --mode usm`."""

import signal

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.run.cli import catch_ctrl_c, parse, run_command, settings_help
from ases.run.process import distributed_session

ABOUT = "Train on chains of thought, write chains for the test questions, score them."


@distributed_session()
def main() -> None:
    given = parse("train", ABOUT, settings_help())
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    from ases.recipe import train
    from ases.run.evaluation import evaluate, question_notes, write_evaluation
    from ases.run.folder import open_run, orderly_exit
    from ases.run.progress import print_line
    from ases.run.scores import table
    from ases.run.write import plural

    catch_ctrl_c()
    run = open_run(given)
    print_line(f"run folder: {run.folder}")
    with orderly_exit(run):
        parts: dict = dict(tokenizer=run.tokenizer, scorer=run.scorer, initial=run.initial)
        run.writer = train(run.splits, run.config.settings, run.recorder, **parts)

        scores: dict = {}
        for split in [name for name in ("test", "longer") if name in run.splits]:
            examples = run.splits[split]
            print_line(f"writing {plural(len(examples), 'chain')} for {split} …")
            scores[split], predictions = evaluate(run, examples)
            if run.lock:
                suffix = "" if split == "test" else f"-{split}"
                write_evaluation(run.folder, scores[split], predictions, suffix)
            question_notes(run, examples)
        print(table(scores))


if __name__ == "__main__":
    run_command(main)
