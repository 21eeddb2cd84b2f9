"""Contexts, pairs, rows and batches against literal ids."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ases import pairs as module
from ases import recipe
from ases.data import Example
from ases.pairs import Pair, collate, encode_question, make_batches, make_pairs, make_rows
from ases.segmentation import AS, ES, make_segments
from ases.settings import Settings


class Letters:
    """A tokenizer of one id a character: a → 10, b → 11, …"""

    pad_id, eos_id, end_id = 0, 1, 2

    def encode(self, text):
        return [ord(c) - 87 for c in text]

    def encode_pieces(self, pieces):
        return [self.encode(p) for p in pieces]


LETTERS = Letters()


def test_a_long_question_loses_its_middle():
    assert encode_question("abcdef", LETTERS, 6) == ([10, 11, 12, 13, 14, 15], 0)
    assert encode_question("abcdef", LETTERS, 5) == ([10, 11, 12, 14, 15], 1)
    assert encode_question("abcdef", LETTERS, 1) == ([10], 5)
    [first, second] = make_pairs("abcdef", make_segments(["b", "c"], [ES, AS]), LETTERS, 2)
    assert first.context == [[10, 15, 1]] and second.context == [[10, 15, 1], [11, 1]]


def test_an_empty_first_segment_is_a_target_too():
    first, second = make_pairs("a", make_segments(["b"], [AS]), LETTERS)
    assert (first.target, second.source, second.target) == ([1], [10, 1, 1], [11, 2, 1])


PIECES = st.tuples(st.text("abc", min_size=1, max_size=4), st.sampled_from([ES, AS]))


@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, min_size=1, max_size=8), st.booleans())
def test_pairs_of_any_example_are_its_chain(labelled, merge):
    pieces, labels = zip(*labelled)
    pairs = make_pairs("q", make_segments(pieces, labels, merge), LETTERS)
    assert [i for p in pairs for i in p.target if i > 2] == LETTERS.encode("".join(pieces))
    ends = [p.target[-2:] == [LETTERS.end_id, LETTERS.eos_id] for p in pairs]
    assert ends == [False] * (len(pairs) - 1) + [True]
    for earlier, later in zip(pairs, pairs[1:]):
        # A context is the one before it and the target that it led to, id for id.
        assert later.context == [*earlier.context, earlier.target]


def test_rows_by_hand():
    pairs = make_pairs("a", make_segments(["b", "cd", "e"], [ES, AS, ES]), LETTERS)
    assert make_rows(pairs, "block-causal") == [pairs]
    assert (module.source_length(pairs), module.target_length(pairs)) == (7, 8)
    assert make_rows(pairs[1:2], "block-causal") == [pairs[1:2]]  # the ASM's
    assert make_rows(pairs, "bidirectional") == [
        [Pair(ES, [[10, 1]], [11, 1])],
        [Pair(AS, [[10, 1, 11, 1]], [12, 13, 1])],
        [Pair(ES, [[10, 1, 11, 1, 12, 13, 1]], [14, 2, 1])],
    ]
    assert make_rows([], "block-causal") == make_rows([], "bidirectional") == []


def test_collate_by_hand():
    rows = [
        [Pair(ES, [[10, 1]], [11, 1]), Pair(AS, [[10, 1], [11, 1]], [12, 13, 1])],
        [Pair(ES, [[14, 1]], [15, 2, 1])],
    ]
    batch = collate(rows, pad_id=0, start_id=9)
    assert batch.source.tolist() == [[10, 1, 11, 1], [14, 1, 0, 0]]
    assert batch.decoder_input.tolist() == [[9, 11, 9, 12, 13], [9, 15, 2, 0, 0]]
    assert batch.target.tolist() == [[11, 1, 12, 13, 1], [15, 2, 1, -100, -100]]
    assert (batch.source_tokens, batch.target_tokens) == (6, 8)

    def seen(span):
        rows = zip(*(end.tolist() for end in span))
        return [["".join(map(str, range(*ends))) for ends in zip(*row)] for row in rows]

    assert seen(batch.source_span) == [["01", "01", "0123", "0123"], ["01", "01", "", ""]]
    assert seen(batch.target_span) == [["0", "01", "2", "23", "234"], ["0", "01", "012", "", ""]]
    first = ["01", "01", "0123", "0123", "0123"]
    assert seen(batch.cross_span) == [first, ["01", "01", "01", "", ""]]
    assert [part.tolist() for part in batch.begins] == [[0, 0, 1], [0, 2, 0], [1, 3, 1]]
    assert batch.source.dtype == torch.int64


def test_batches_hold_every_row_once_within_the_bound():
    sources = [*([5] * (1 + i % 37) for i in range(500)), [5] * 900]
    targets = [*([6] * (1 + i % 11) for i in range(500)), [6]]
    rows = [[Pair(ES, [source], target)] for source, target in zip(sources, targets)]
    batches = make_batches(rows, 300, seed=1, epoch=0)
    assert sorted(i for b in batches for i in b) == list(range(501))
    for b in batches:
        source, target = (max(len(part[i]) for i in b) for part in (sources, targets))
        assert len(b) * (source + target) <= 300 or len(b) == 1
    again = make_batches(rows, 300, seed=1, epoch=0)
    others = (make_batches(rows, 300, seed, epoch) for seed, epoch in ((1, 1), (2, 0)))
    assert again == batches and batches not in others
    longest = [max(len(sources[i]) for i in b) for b in batches]
    assert len(batches) > 10 and longest not in (sorted(longest), sorted(longest)[::-1])


def test_settings_limit_questions_and_chains(monkeypatch):
    """A question or chain of exactly the limit is whole; a longer chain is refused."""
    lengths = []

    def fit(training, rows, validation):
        lengths.extend(map(module.source_length, rows))
        yield from ()

    monkeypatch.setattr(recipe, "fit", fit)
    monkeypatch.setattr(recipe.Training, "summary", lambda self: {})
    questions = ["".join(random.Random(n).choices("0123456789", k=20)) for n in range(3)]
    chain = " ".join("0123456789" * 2)  # 20 tokens by any count
    splits = {name: [Example(q, q, chain) for q in questions] for name in ("train", "validation")}
    limits = dict(mode="direct", max_question=18, max_chain=20)
    recipe.train(splits, Settings(**limits))
    assert lengths == [19] * 3  # with </s>
    with pytest.raises(ValueError, match="a chain of about 20 tokens; expected at most 19"):
        recipe.train(splits, Settings(**limits | dict(max_chain=19)))
