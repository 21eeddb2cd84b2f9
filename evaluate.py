"""Score trained runs, or ask one a question: `python evaluate.py --run runs/mwp-usm-interleave`."""

from dataclasses import dataclass, replace
from pathlib import Path

from ases.data import Example, InputError
from ases.run.command import choose_device, device_complaints, parse, run_command
from ases.run.files import make_parent
from ases.run.folder import digest, load_run, load_splits, pick_split
from ases.run.report import evaluate, show_segments, table, training_seconds, write_evaluation
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


def output_folder(run: Path, options: EvaluateOptions) -> Path:
    if options.out_dir:
        return Path(options.out_dir) / run.name if len(options.run) > 1 else Path(options.out_dir)
    parts = ["eval", options.split]
    if options.data:
        parts.append(Path(options.data).stem)
    if options.beams > 1:
        parts.append(f"beam{options.beams}")
    return run / "-".join(parts)


def main() -> None:
    options = parse(
        "Score trained runs on a test set, or answer one question.", {"": EvaluateOptions}, complain
    ).of(EvaluateOptions)
    runs = {Path(run): load_run(run, choose_device(options.device)) for run in options.run}
    if options.question is not None:
        for folder, writer in runs.items():
            _, [line] = evaluate(
                writer, [Example("question", options.question.strip(), "")], options.beams
            )
            segments = [(segment["role"], segment["text"]) for segment in line["segments"]]
            answer = f"; answer: {line['answer']}" if line.get("answer") else ""
            print(f"{folder}\n{show_segments(segments)}\n  stopped by {line['stop']}{answer}")
        return

    outputs = {folder: output_folder(folder, options) for folder in runs}
    if len(set(outputs.values())) < len(outputs):
        raise InputError(
            "--run names two folders of one name; expected no --out-dir, or one run at a time"
        )
    for path in outputs.values():
        if (path / "results.json").exists() and not options.overwrite:
            raise InputError(
                f"{path}: holds results already; expected another --out-dir, or --overwrite"
            )
        make_parent(path / "results.json")

    rows = {}
    for folder, writer in runs.items():
        data = writer.recipe.data
        if options.data:
            data = replace(data, data=options.data, train_problems=None, test_problems=None)
        splits, description = load_splits(
            data, whole=options.split == "all" and options.data is not None
        )
        if not options.data and digest(splits) != writer.recipe.data_digest:
            raise InputError(
                f"{data.data}: not the data that {folder} was trained on; expected the same file"
            )
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
