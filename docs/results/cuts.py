"""Other ways to cut and label chains, for comparison with the method's."""

import random
from collections.abc import Sequence

from ases.data import Example
from ases.pairs import Segmented
from ases.segmentation import AS, ES, interleaved_labels, make_segments, split_pieces


def cut_by_true_roles(examples: Sequence[Example]) -> list[Segmented]:
    """The generator's own pieces and roles."""
    labels = [[role for role, _ in e.gold or ()] for e in examples]
    return _segmented(examples, [[text for _, text in e.gold or ()] for e in examples], labels)


def cut_by_random_roles(examples: Sequence[Example]) -> list[Segmented]:
    """A random role for each piece."""
    pieces = [split_pieces(e.answer) for e in examples]
    labels = []
    for e, own in zip(examples, pieces):
        rng = random.Random(f"roles-{e.question}")
        labels.append([rng.choice((ES, AS)) for _ in own])
    return _segmented(examples, pieces, labels)


def cut_at_random(examples: Sequence[Example]) -> list[Segmented]:
    """As many pieces as by punctuation, but cut at random blanks."""
    pieces = []
    for e in examples:
        rng = random.Random(f"cuts-{e.question}")
        blanks = [i for i, c in enumerate(e.answer) if c == " "]
        n = min(len(split_pieces(e.answer)) - 1, len(blanks))
        places = [0, *sorted(rng.sample(blanks, n)), len(e.answer)]
        pieces.append([e.answer[a:b] for a, b in zip(places, places[1:])])
    return _segmented(examples, pieces, [interleaved_labels(len(p)) for p in pieces])


def _segmented(
    examples: Sequence[Example], pieces: list[list[str]], labels: list[list[str]]
) -> list[Segmented]:
    return [Segmented(e, p, r, make_segments(p, r)) for e, p, r in zip(examples, pieces, labels)]


CUTS = {
    "true roles": cut_by_true_roles,
    "random roles": cut_by_random_roles,
    "random cuts": cut_at_random,
}
