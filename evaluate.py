"""Score trained runs, or ask one a question: `python evaluate.py --run runs/mwp-usm-interleave`."""

from dataclasses import replace
from pathlib import Path

from ases import cli, runs
from ases.data import Example, InputError


def make_parser() -> cli.Parser:
    parser = cli.Parser("Score one or more trained runs on a test set, or answer one question and show the chain.")
    parser.add_argument("--run", type=Path, action="append", required=True, metavar="DIR", help="folder that train.py wrote; give it several times to compare runs")
    parser.add_argument("--data", default=None, metavar="PATH", help="another file of questions and answers; None means the run's own data")
    parser.add_argument("--split", type=cli.one_of("test", "validation", "train", "longer", "all"), default="test", help="which part of the data, split with the run's seed")
    parser.add_argument("--question", default=None, help="answer this question instead, and print its chain with roles")
    parser.add_argument("--beams", type=cli.number(int, 1, 64), default=1, help="1 decodes greedily")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: cuda where there is one")
    parser.add_argument("--out-dir", type=Path, default=None, metavar="DIR", help="where predictions.jsonl and results.json go; None means RUN/eval-<split>[-<data>]; with several runs, a folder each in it")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation there")
    return parser


def check(args) -> list[str]:
    complaints = cli.check_device(args.device)
    if args.question is not None and not args.question.strip():
        complaints.append("--question is empty; expected a text")
    if args.question is not None and any("\ud800" <= c <= "\udfff" for c in args.question):
        complaints.append("--question is no valid Unicode; expected a text")
    if args.question is not None and (args.data or args.out_dir):
        complaints.append("--question with --data or --out-dir; expected it without them, for it writes no file")
    if len({p.resolve() for p in args.run}) < len(args.run):
        complaints.append("--run names one folder twice; expected different ones")
    return complaints


def answer(run: runs.Run, question: str, beams: int) -> None:
    _, [line] = runs.evaluate(run, [Example("question", question.strip(), "")], beams)
    for segment in line["segments"]:
        print(f"  {segment['role']} {segment['text'].strip() or '(empty)'}")
    print(f"  stopped by {line['stop']}" + (f"; answer: {line['answer']}" if line.get("answer") else ""))


def main() -> None:
    args = make_parser().parse(check=check)
    device = cli.choose_device(args.device)
    loaded = {folder: runs.load_run(folder, device) for folder in args.run}
    if args.question is not None:
        for folder, run in loaded.items():
            print(folder)
            answer(run, args.question, args.beams)
        return

    outputs = {}
    for folder in loaded:
        name = f"eval-{args.split}" + (f"-{Path(args.data).stem}" if args.data else "") + (f"-beam{args.beams}" if args.beams > 1 else "")
        outputs[folder] = folder / name if args.out_dir is None else args.out_dir / folder.name if len(loaded) > 1 else args.out_dir
        if (outputs[folder] / "results.json").exists() and not args.overwrite:
            raise InputError(f"{outputs[folder]}: holds results already; expected another --out-dir, or --overwrite")
        cli.make_parent(outputs[folder] / "results.json")
    if len(set(outputs.values())) < len(outputs):
        raise InputError(f"--run names two folders of one name, for which --out-dir {args.out_dir} has one place; expected no --out-dir, or one run at a time")
    rows = {}
    for folder, run in loaded.items():
        options = run.config.data if args.data is None else replace(run.config.data, data=args.data, train_problems=None, test_problems=None, max_number=None)
        splits, description = runs.load_splits(options, whole=args.split == "all" and args.data is not None)
        if args.data is None and runs.digest(splits) != run.config.data_digest:
            raise InputError(f"{options.data}: not the data that {folder} was trained on; expected the same file")
        if args.split != "all" and args.split not in splits:
            raise InputError(f"--split is {args.split!r}; expected one of {', '.join(splits)}, all, for {folder}")
        examples = [e for name, part in splits.items() if args.split in ("all", name) for e in part]
        print(f"{folder}: {description}; writing {len(examples)} chains …", flush=True)
        results, predictions = runs.evaluate(run, examples, args.beams)
        results["train_seconds"] = run.train_seconds
        runs.write_evaluation(outputs[folder], results, predictions)
        rows[str(folder)] = results
    print(runs.table(rows))
    print("\n".join(f"written: {path}/predictions.jsonl and results.json" for path in outputs.values()))


if __name__ == "__main__":
    cli.run_command(main)
