"""Contexts, pairs and batches against literal ids."""

import torch
from conftest import TOY, TOY_PIECES
from hypothesis import given, settings
from hypothesis import strategies as st

from ases.pairs import (
    CHAIN,
    IGNORE,
    Pair,
    collate,
    join_context,
    make_batches,
    make_direct_pair,
    make_pairs,
)
from ases.segmentation import AS, ES, interleaved_labels, make_segments


class Letters:
    """A tokenizer of one id a character: a → 10, b → 11, …"""

    pad_id, eos_id, end_id, sep_id = 0, 1, 2, 3

    def encode(self, text):
        return [ord(c) - 87 for c in text]

    def encode_pieces(self, pieces):
        return [self.encode(p) for p in pieces]


LETTERS = Letters()


def test_contexts_by_hand():
    assert join_context([10, 11], [], LETTERS, 9) == ([10, 11, 1], 0)
    assert join_context([10, 11], [[12], [], [13, 14]], LETTERS, 9) == (
        [10, 11, 3, 12, 3, 3, 13, 14, 1],
        0,
    )


def test_a_long_context_loses_the_middle_of_the_question():
    question, history = [10, 11, 12, 13, 14, 15], [[20], [21]]
    assert join_context(question, history, LETTERS, 10) == (
        [10, 11, 12, 14, 15, 3, 20, 3, 21, 1],
        1,
    )
    assert join_context(question, history, LETTERS, 6) == ([10, 3, 20, 3, 21, 1], 5)
    assert join_context(question, history, LETTERS, 5) == ([3, 20, 3, 21, 1], 6)
    assert join_context(question, history, LETTERS, 3) == ([3, 21, 1], 8)  # then the oldest segment


@settings(deadline=None)
@given(
    st.lists(st.integers(10, 99), max_size=30),
    st.lists(st.lists(st.integers(10, 99), max_size=8), max_size=5),
    st.integers(2, 60),
)
def test_the_newest_tokens_are_always_kept(question, segments, limit):
    context, cut = join_context(question, segments, LETTERS, limit)
    whole, _ = join_context(question, segments, LETTERS, 10**6)
    history = [i for s in segments for i in (3, *s)]
    assert (
        len(context) <= limit and len(whole) - len(context) == cut and context[-1] == LETTERS.eos_id
    )
    kept = min(len(history), limit - 1)
    assert context[len(context) - 1 - kept : -1] == history[len(history) - kept :]


def test_pairs_by_hand():
    segments = make_segments(["b", "cd", "e"], [ES, AS, AS])
    assert make_pairs("a", segments, LETTERS) == [
        Pair(ES, [10, 1], [11, 1]),
        Pair(AS, [10, 3, 11, 1], [12, 13, 14, 2, 1]),
    ]
    assert make_direct_pair("a", ["b", "cd", "e"], LETTERS) == Pair(
        CHAIN, [10, 1], [11, 12, 13, 14, 2, 1]
    )


def test_an_empty_first_segment_is_a_target_too():
    first, second = make_pairs("a", make_segments(["b"], [AS]), LETTERS)
    assert (first.target, second.source, second.target) == ([1], [10, 3, 1], [11, 2, 1])


def test_targets_of_an_example_are_its_chain(tokenizer):
    pairs = make_pairs(TOY.question, make_segments(TOY_PIECES, interleaved_labels(5)), tokenizer)
    assert [p.role for p in pairs] == [ES, AS, ES, AS, ES]
    assert "".join(tokenizer.decode(p.target) for p in pairs) == TOY.answer
    assert [p.target.count(tokenizer.end_id) for p in pairs] == [0, 0, 0, 0, 1]
    direct = make_direct_pair(TOY.question, TOY_PIECES, tokenizer)
    assert direct.target == [
        i for p in pairs for i in p.target if i not in (tokenizer.end_id, tokenizer.eos_id)
    ] + [tokenizer.end_id, tokenizer.eos_id]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=4), st.sampled_from([ES, AS])),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
)
def test_pairs_of_any_example_are_its_chain(labelled, merge):
    pieces, labels = [p for p, _ in labelled], [label for _, label in labelled]
    pairs = make_pairs("q", make_segments(pieces, labels, merge), LETTERS)
    assert [i for p in pairs for i in p.target if i > 3] == LETTERS.encode("".join(pieces))
    assert [p.target[-2:] == [LETTERS.end_id, LETTERS.eos_id] for p in pairs] == [False] * (
        len(pairs) - 1
    ) + [True]
    for earlier, later in zip(
        pairs, pairs[1:]
    ):  # a context is the one before it with one more segment
        assert later.source == [
            *earlier.source[:-1],
            LETTERS.sep_id,
            *(i for i in earlier.target if i > 3),
            LETTERS.eos_id,
        ]


def test_collate_by_hand():
    batch = collate([Pair(ES, [10, 1], [11, 12, 1]), Pair(AS, [10, 3, 11, 1], [1])], pad_id=0)
    assert batch.source.tolist() == [[10, 1, 0, 0], [10, 3, 11, 1]]
    assert batch.source_lengths.tolist() == [2, 4]
    assert batch.target.tolist() == [[11, 12, 1], [1, IGNORE, IGNORE]]
    assert batch.tokens == 6 + 4 and batch.source.dtype == torch.int64


def test_batches_hold_every_pair_once_within_the_bound():
    pairs = [Pair(ES, [5] * (1 + i % 37), [6] * (1 + i % 11)) for i in range(500)] + [
        Pair(ES, [5] * 900, [6])
    ]
    batches = make_batches(pairs, 300, seed=1, epoch=0)
    assert sorted(i for b in batches for i in b) == list(range(501))
    for b in batches:
        width = max(len(pairs[i].source) for i in b) + max(len(pairs[i].target) for i in b)
        assert len(b) * width <= 300 or len(b) == 1
    assert make_batches(pairs, 300, seed=1, epoch=0) == batches
    assert (
        make_batches(pairs, 300, seed=1, epoch=1)
        != batches
        != make_batches(pairs, 300, seed=2, epoch=0)
    )
