"""What each choice of segmentation does to the labels of real data: the figures of docs/differences.md.

    python tests/label_changes.py --scorer RUN [--split test]

RUN is a direct run; its own data is segmented under this project's defaults and under one change at a time.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ases import cli, runs
from ases.scoring import chain_entropies
from ases.segmentation import AS, entropy_labels, interleaved_labels, piece_entropies, split_pieces

CHANGES = {
    "β = 0.8": dict(beta=0.8), "β = 1.2": dict(beta=1.2), "β = 1.4 (released runs)": dict(beta=1.4), "γ = 0, the sum (released option)": dict(gamma=0.0), "γ = 0.5": dict(gamma=0.5),
    "each piece given the question alone (released code)": dict(entropy_context="question"),
    "all three of the released code: question alone, γ = 0, β = 1.4": dict(entropy_context="question", gamma=0.0, beta=1.4),
}


def main() -> None:
    parser = cli.Parser("Share of pieces whose label changes with each choice of segmentation.")
    parser.add_argument("--scorer", type=Path, required=True, metavar="RUN", help="a direct run; its data is segmented")
    parser.add_argument("--split", type=cli.one_of("train", "validation", "test"), default="test", help="which part of the data")
    args = parser.parse()
    splits, description = runs.load_splits(runs.RunConfig.load(args.scorer).data)
    examples = splits[args.split]
    model, tokenizer = runs.load_scorer(args.scorer)
    pieces = [split_pieces(e.answer) for e in examples]
    tokens = {c: chain_entropies(model, tokenizer, [e.question for e in examples], pieces, c) for c in ("prefix", "question")}

    def labels(o: runs.SegmentationOptions) -> list[str]:
        return [label for t in tokens[o.entropy_context] for label in entropy_labels(piece_entropies(t, o.gamma), o.beta)]

    defaults = runs.SegmentationOptions(segmentation="entropy")
    base = labels(defaults)
    positions = [label for p in pieces for label in interleaved_labels(len(p))]
    print(f"{description}\n{args.split}: {len(examples)} chains, {len(base)} pieces; entropy, prefix, γ = 1, β = 1: {base.count(AS) / len(base):.1%} AS")
    variants = {"interleaving": positions} | {name: labels(replace(defaults, **change)) for name, change in CHANGES.items()}
    for name, found in variants.items():
        changed = sum(a != b for a, b in zip(base, found)) / len(base)
        print(f"| {name} | {changed:.1%} | {found.count(AS) / len(found):.1%} |")
    chains = [entropy_labels(piece_entropies(t, defaults.gamma), defaults.beta) for t in tokens["prefix"]]
    alike = sum(a == b for chain in chains for a, b in zip(chain, chain[1:]))
    print(f"merging: {alike / max(1, len(base) - len(examples)):.1%} of neighbouring pieces share a label and become one segment")


if __name__ == "__main__":
    cli.run_command(main)
