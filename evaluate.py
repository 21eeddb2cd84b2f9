#!/usr/bin/env python3
"""Score trained runs, or ask one a question: `python evaluate.py --run runs/mwp-usm`."""

import signal
from pathlib import Path

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import InputError, shown
from ases.run.cli import Options, of, parse, run_command
from ases.run.read import PREDICTION, read_rows
from ases.run.scores import explained

ABOUT = "Score trained runs on a test set, or ask them questions."


def main() -> None:
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    given = parse("evaluate", ABOUT, explained())
    options = of(Options, given)
    written = [Path(run) / "predictions.jsonl" for run in options.run]
    if set(given) == {"run", "show_wrong"} and all(path.exists() for path in written):
        return show_wrong_ones(written, options.show_wrong)
    from ases.run.evaluation import ask, score
    from ases.run.folder import open_trained
    from ases.run.progress import say

    device = given.get("device", "auto")
    runs = {Path(folder): open_trained(Path(folder), device) for folder in options.run}
    for folder, (config, _) in runs.items():  # what Python has saved knows of no data
        if config.data_digest and not (folder / "results.json").exists():
            say(f"note: {folder} has no results.json: train.py did not finish")
    if options.question is not None or options.questions is not None:
        ask(runs, options, given)
    else:
        score(runs, options, given)


def show_wrong_ones(written: list[Path], n: int) -> None:
    """Print wrong chains from the predictions that train.py wrote."""
    from ases.run.show import is_wrong, show_wrong

    for path in written:
        try:
            lines = read_rows(path, PREDICTION)
            wrong = [line for line in lines if is_wrong(line)]
            chains = [f"\n{show_wrong(line)}" for line in wrong[:n]]
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not the predictions of a run") from None
        print("\n".join([shown(f"{path}: {len(wrong)} of {len(lines)} wrong"), *chains]))


if __name__ == "__main__":
    run_command(main)
