"""From data to a scored test set: `python train.py --task mwp --mode usm`."""

from ases.data import InputError
from ases.run.command import parse, run_command
from ases.run.config import TRAIN_FLAGS, train_complaints


def main() -> None:
    flags = parse(
        "Train on chains of thought, write chains for the test questions, score them.",
        TRAIN_FLAGS,
        train_complaints,
    )
    # Only here, for PyTorch takes its time, and --help and mistakes need not wait for it.
    from ases.recipe import train
    from ases.run.checkpoints import Recorder
    from ases.run.report import evaluate, table, write_evaluation
    from ases.run.start import start

    run = start(flags)
    print(f"run folder: {run.folder}", flush=True)

    # The method from end to end is ases/recipe.py.
    try:
        writer = train(
            run.splits,
            run.config,
            Recorder(run.folder, run.resumed),
            tokenizer=run.tokenizer,
            scorer=run.scorer,
            initial=run.initial,
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    seconds = {name: report["seconds"] for name, report in writer.reports.items()}

    rows = {}
    for split in ("test", "longer"):
        if split not in run.splits:
            continue
        print(f"writing {len(run.splits[split])} chains for {split} …", flush=True)
        results, predictions = evaluate(writer, run.splits[split])
        results["train_seconds"] = round(
            sum(s for name, s in seconds.items() if name != "scorer"), 1
        )
        results["scorer_seconds"] = seconds.get("scorer")
        results["training"] = writer.reports
        write_evaluation(run.folder, results, predictions, "" if split == "test" else f"-{split}")
        rows[split] = results
    print(table(rows))


if __name__ == "__main__":
    run_command(main)
