"""One answer to each exercise of docs/exercises.md. Don't read it before you have yours."""

from dataclasses import replace

import torch

from ases.entropy import token_entropies  # noqa: F401
from ases.segmentation import AS, ES, interleaved_labels, make_segments  # noqa: F401


def merge(pieces, labels):
    return [(s.label, s.text) for s in make_segments(pieces, labels)]


def unify(pairs_by_model):
    turns = {ES: iter(pairs_by_model["esm"]), AS: iter(pairs_by_model["asm"])}
    pairs, role = [], ES
    for _ in range(len(pairs_by_model["esm"]) + len(pairs_by_model["asm"])):
        pairs.append(next(turns[role]))
        ends_its_chain = pairs[-1].target[-2:-1] == [2]
        role = ES if ends_its_chain or role == AS else AS
    return {"usm": pairs}


def toeplitz_index(n, m):
    return torch.arange(m) - torch.arange(n)[:, None] + n - 1


def first_inputs(start, states, reads):
    return start + states[torch.tensor(reads) - 1]


def better_settings(settings):
    return replace(settings, embedding_learning_rate=0.05, learning_rate=0.1, momentum=0.8)
