"""Score trained runs, or ask one a question: `python evaluate.py --run runs/mwp-usm-interleave`."""

from dataclasses import dataclass
from pathlib import Path

from ases.run.command import choose_device, device_complaints, parse, run_command
from ases.settings import setting

SPLITS = ("test", "validation", "train", "longer", "all")


@dataclass(frozen=True)
class EvaluateOptions:
    run: list | None = setting(
        None, "folder that train.py wrote; give it several times to compare runs", flag=True
    )
    data: str | None = setting(
        None, "another file of questions and answers", shown="the run's own data", flag=True
    )
    split: str = setting(
        "test", "part of the data, split with the run's seed", choices=SPLITS, flag=True
    )
    question: str | None = setting(
        None, "answer this question instead, and print its chain with roles", flag=True
    )
    beams: int = setting(1, "1 decodes greedily", low=1, high=64, flag=True)
    device: str = setting(
        "auto", "auto is cuda where there is one", choices=("auto", "cpu", "cuda"), flag=True
    )
    out_dir: str | None = setting(
        None,
        "for predictions and results; a folder each in it if runs are several",
        shown="RUN/eval-<split>",
        flag=True,
    )
    overwrite: bool = setting(False, "replace an earlier evaluation there", flag=True)


def complain(given: dict) -> list[str]:
    complaints = device_complaints(given)
    runs = [Path(run).resolve() for run in given.get("run", [])]
    if not runs:
        complaints.append("--run is missing; expected the folder of a run")
    if len(set(runs)) < len(runs):
        complaints.append("--run names one folder twice; expected different ones")
    if "question" in given:
        if not given["question"].strip() or any(
            "\ud800" <= c <= "\udfff" for c in given["question"]
        ):
            complaints.append("--question is empty or no valid Unicode; expected a text")
        if "data" in given or "out_dir" in given:
            complaints.append(
                "--question with --data or --out-dir; "
                "expected it without them, for it writes no file"
            )
    return complaints


def main() -> None:
    what = "Score trained runs on a test set, or answer one question."
    options = parse(what, {"what to do": EvaluateOptions}, complain).of(EvaluateOptions)
    # Only here, for PyTorch takes its time, and --help and mistakes need not wait for it.
    from ases.run.folder import evaluation_folders, load_run, pick_split, splits_for
    from ases.run.report import answer, evaluate, table, training_seconds, write_evaluation

    device = choose_device(options.device)
    writers = {Path(run): load_run(run, device) for run in options.run}

    if options.question is not None:
        for folder, writer in writers.items():
            print(f"{folder}\n{answer(writer, options.question.strip(), options.beams)}")
        return

    suffix = [options.split]
    if options.data:
        suffix.append(Path(options.data).stem)
    if options.beams > 1:
        suffix.append(f"beam{options.beams}")
    outputs = evaluation_folders(list(writers), suffix, options.out_dir, options.overwrite)

    rows = {}
    for folder, writer in writers.items():
        splits, description = splits_for(folder, writer, options.data, options.split == "all")
        examples = pick_split(splits, options.split)
        print(f"{folder}: {description}; writing {len(examples)} chains …", flush=True)
        results, predictions = evaluate(writer, examples, options.beams)
        results["train_seconds"] = training_seconds(folder)
        write_evaluation(outputs[folder], results, predictions)
        rows[str(folder)] = results
    print(table(rows))
    for path in outputs.values():
        print(f"written: {path}/predictions.jsonl and results.json")


if __name__ == "__main__":
    run_command(main)
