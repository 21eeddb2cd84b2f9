"""Cut and label chains of thought: `python segment.py --show 3`, or `--out FILE` for one JSON line per example."""

import json
import os
import sys
from pathlib import Path

from ases import cli, runs
from ases.data import InputError
from ases.segmentation import AS, ES

COLOURS = {ES: "\033[34m", AS: "\033[32m"}  # blue and green


def make_parser() -> cli.Parser:
    parser = cli.Parser("Cut the chains of a data set into pieces, label them ES or AS, and merge them into segments.")
    cli.add_data_flags(parser)
    parser.add_argument("--split", type=cli.one_of("train", "validation", "test", "longer", "all"), default="all", help="which examples; longer exists for generated word problems")
    cli.add_segmentation_flags(parser)
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="where the JSON lines go; None means standard output, unless --show is given")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    parser.add_argument("--show", type=cli.number(int, 0), default=None, metavar="N", help="print the first N examples to read, roles in colour on a terminal")
    parser.add_argument("--device", default="auto", help="of the scorer: cpu, cuda, or auto")
    return parser


def check(args) -> list[str]:
    complaints = cli.check_data_flags(args) + cli.check_segmentation_flags(args) + cli.check_device(args.device)
    if args.segmentation == "entropy" and args.scorer is None:
        complaints.append("--segmentation is 'entropy' without --scorer; expected the run folder of a direct model (train.py --mode direct)")
    if args.out is not None and args.out.is_dir():
        complaints.append(f"--out is {str(args.out)!r}, a folder; expected a file")
    elif args.out is not None and args.out.exists() and not args.overwrite:
        complaints.append(f"--out is {str(args.out)!r}, which exists; expected a new file, or --overwrite")
    return complaints


def as_json(s: runs.Segmented) -> str:
    entropies = s.entropies or [None] * len(s.pieces)
    pieces = [{"text": text, "label": label, "entropy": entropy} for text, label, entropy in zip(s.pieces, s.labels, entropies)]
    segments = [{"label": segment.label, "text": segment.text} for segment in s.segments]
    return json.dumps({"id": s.example.id, "question": s.example.question, "answer": s.example.answer, "pieces": pieces, "segments": segments}, ensure_ascii=False)


def as_text(s: runs.Segmented, colour: bool) -> str:
    lines = [f"[{s.example.id}] {s.example.question}"]
    for segment in s.segments:
        text = segment.text.strip() or "(empty)"
        lines.append(f"  {segment.label} {COLOURS[segment.label]}{text}\033[0m" if colour else f"  {segment.label} {text}")
    return "\n".join(lines) + "\n"


def main() -> None:
    args = make_parser().parse(check=check)
    splits, description = runs.load_splits(runs.DataOptions(args.task, args.data, args.seed, args.train_problems, args.test_problems, args.max_number), whole=args.split == "all" and args.data is not None)
    if args.split != "all" and args.split not in splits:
        raise InputError(f"--split is {args.split!r}; expected one of {', '.join(splits)}, all")
    examples = [e for name, part in splits.items() if args.split in ("all", name) for e in part]
    options = runs.SegmentationOptions(args.segmentation, args.beta, args.gamma, args.entropy_context, not args.no_merge)
    scorer = runs.load_scorer(args.scorer, cli.choose_device(args.device)) if args.scorer else None
    max_source = runs.RunConfig.load(args.scorer).max_source if args.scorer else 0
    segmented = runs.segment_examples(examples, options, scorer, max_source)

    if args.show:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n".join(as_text(s, colour) for s in segmented[: args.show]))
    if args.out:
        cli.make_parent(args.out)
    lines = "".join(as_json(s) + "\n" for s in segmented)
    if args.out:
        runs.write_text(args.out, lines)
    elif args.show is None:
        sys.stdout.write(lines)

    labels = [label for s in segmented for label in s.labels]
    lossless = sum("".join(s.pieces) == s.example.answer for s in segmented)
    print(f"{description}\n{len(segmented)} chains, {len(labels)} pieces, {labels.count(AS) / len(labels):.1%} AS, {sum(len(s.segments) for s in segmented)} segments; "
          f"{lossless} of {len(segmented)} chains are their pieces joined", file=sys.stderr)
    if found := runs.agreement(segmented):
        print("agreement with the true roles: " + "; ".join(f"{role} precision {f['precision']:.3f}, recall {f['recall']:.3f}, F1 {f['f1']:.3f}" for role, f in found.items()), file=sys.stderr)


if __name__ == "__main__":
    cli.run_command(main)
