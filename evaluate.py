#!/usr/bin/env python3
"""Score trained runs, or ask one a question: `python evaluate.py --run runs/mwp-usm`."""

import signal
from pathlib import Path

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.run.cli import Options, catch_ctrl_c, from_flags, parse, run_command
from ases.run.scores import score_help

ABOUT = "Score trained runs on a test set, or ask them questions."


def main() -> None:
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    given = parse("evaluate", ABOUT, score_help())
    options = from_flags(Options, given)
    from ases.run.evaluation import ask, score
    from ases.run.folder import open_trained
    from ases.run.progress import print_note

    catch_ctrl_c()
    device = given.get("device", "auto")
    runs = [open_trained(Path(folder), device) for folder in options.run]
    for run in runs:  # runs saved from Python have no data file
        if run.config.data_digest and not (run.folder / "results.json").exists():
            print_note(f"note: {run.folder} has no results.json: train.py did not finish")
    if options.question is not None or options.questions is not None:
        ask(runs, options, given)
    else:
        score(runs, options, given)


if __name__ == "__main__":
    run_command(main)
