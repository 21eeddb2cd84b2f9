"""Other ways to cut and label chains, for comparison with the method's."""

import random
from collections.abc import Sequence

from ases.data import Example
from ases.pairs import Segmented
from ases.segmentation import AS, ES, interleaved_labels, make_segments, split_pieces

Cut = tuple[list[str], list[str]]  # pieces and their labels


def true_roles(e: Example) -> Cut:
    """The generator's own pieces and roles."""
    return [text for _, text in e.gold], [role for role, _ in e.gold]


def random_roles(e: Example) -> Cut:
    """A random role for each piece."""
    pieces, rng = split_pieces(e.answer), random.Random(f"roles-{e.question}")
    return pieces, [rng.choice((ES, AS)) for _ in pieces]


def random_cuts(e: Example) -> Cut:
    """As many pieces as by punctuation, but cut at random blanks."""
    rng = random.Random(f"cuts-{e.question}")
    blanks = [i for i, c in enumerate(e.answer) if c == " "]
    n = min(len(split_pieces(e.answer)) - 1, len(blanks))
    places = [0, *sorted(rng.sample(blanks, n)), len(e.answer)]
    return [e.answer[a:b] for a, b in zip(places, places[1:])], interleaved_labels(n + 1)


CUTS = {"true roles": true_roles, "random roles": random_roles, "random cuts": random_cuts}


def cut_by(name: str, examples: Sequence[Example]) -> list[Segmented]:
    """Cut and label chains in one of these ways."""
    cuts = [(e, *CUTS[name](e)) for e in examples]
    return [Segmented(e, *cut, make_segments(*cut)) for e, *cut in cuts]
