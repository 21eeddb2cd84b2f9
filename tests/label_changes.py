"""What each choice of segmentation does to the labels of real data: the figures of docs/reference.md.

    python tests/label_changes.py --scorer RUN [--split test]

RUN is a direct run; its own data is segmented under this project's defaults and under one change at a time.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ases.entropy import chain_entropies
from ases.run.folder import load_scorer, load_splits
from ases.segmentation import AS, entropy_labels, interleaved_labels, piece_entropies, split_pieces
from ases.settings import Settings

CHANGES = {
    "β = 0.8": dict(beta=0.8),
    "β = 1.2": dict(beta=1.2),
    "β = 1.4 (released runs)": dict(beta=1.4),
    "γ = 0, the sum (released option)": dict(gamma=0.0),
    "γ = 0.5": dict(gamma=0.5),
    "each piece given the question alone (released code)": dict(entropy_context="question"),
    "all three of the released code": dict(entropy_context="question", gamma=0.0, beta=1.4),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Share of pieces whose label changes with each choice."
    )
    parser.add_argument("--scorer", required=True, help="a direct run; its data is segmented")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    args = parser.parse_args()
    scorer, config = load_scorer(args.scorer)
    splits, description = load_splits(config)
    examples = splits[args.split]
    pieces = [split_pieces(e.answer) for e in examples]
    questions = [e.question for e in examples]
    tokens = {
        c: chain_entropies(scorer.model, scorer.tokenizer, questions, pieces, c)
        for c in ("prefix", "question")
    }

    def labels(settings: Settings) -> list[str]:
        found = []
        for of_chain in tokens[settings.entropy_context]:
            found += entropy_labels(piece_entropies(of_chain, settings.gamma), settings.beta)
        return found

    defaults = Settings(segmentation="entropy")
    base = labels(defaults)
    print(
        f"{description}\n{args.split}: {len(examples)} chains, {len(base)} pieces, {base.count(AS) / len(base):.1%} AS"
    )
    variants = {"interleaving": [label for p in pieces for label in interleaved_labels(len(p))]}
    variants |= {name: labels(replace(defaults, **change)) for name, change in CHANGES.items()}
    for name, found in variants.items():
        changed = sum(a != b for a, b in zip(base, found)) / len(base)
        print(f"| {name} | {changed:.1%} | {found.count(AS) / len(found):.1%} |")


if __name__ == "__main__":
    main()
