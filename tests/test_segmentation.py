"""Pieces, labels, segments: worked by hand, and as properties of any string."""

import math
import re
import time
import unicodedata

import pytest
import torch
from conftest import TOY, TOY_PIECES
from hypothesis import given, settings
from hypothesis import strategies as st

from ases.entropy import token_entropies
from ases.metrics import role_agreement
from ases.segmentation import (
    AS,
    ES,
    entropy_labels,
    interleaved_labels,
    make_segments,
    piece_entropies,
    split_pieces,
)


@pytest.mark.parametrize(
    "chain, pieces",
    [
        (TOY.answer, TOY_PIECES),
        (
            "1、胰头部高代谢灶，考虑恶性；肝囊肿。  2.双肺结节",
            ["1、胰头部高代谢灶，", "考虑恶性；", "肝囊肿。", "  2.双肺结节"],
        ),
        ("He pays $1,005.50 now. Then 3.5 more", ["He pays $1,005.50 now.", " Then 3.5 more"]),
        ("That makes 3. So 4.", ["That makes 3.", " So 4."]),
        ("3.", ["3."]),
        ("Count 1, 2, 3. Then stop.", ["Count 1,", " 2,", " 3.", " Then stop."]),
        ("a = 2\nb = 3 \n\nc", ["a = 2\n", "b = 3 \n\n", "c"]),
        ('He said "no!" Then left... Why?!', ['He said "no!"', " Then left...", " Why?!"]),
        ("Mrs. Lee has .5 of it, i.e. half", ["Mrs. Lee has .5 of it,", " i.e. half"]),
        ("1. Nodule, benign. 2. Cyst.", ["1. Nodule,", " benign.", " 2. Cyst."]),
        ("apples,pears,1,2", ["apples,", "pears,", "1,2"]),
        ("SUVmax:3.6.胰腺", ["SUVmax:3.6.", "胰腺"]),
        ("5...10 apples", ["5...10 apples"]),
        ("He left...Then he", ["He left...", "Then he"]),
        ("is it? 4. So he", ["is it?", " 4.", " So he"]),
        ("x =\n4. So he", ["x =\n", "4.", " So he"]),
        ("a != b, so", ["a != b,", " so"]),
        ("TeX's 1{,}000 is", ["TeX's 1{,}000 is"]),
        ("It is 14,\\!400, so more", ["It is 14,\\!400,", " so more"]),
        ("10! / (2! * 8!) = 45. So", ["10! / (2! * 8!) = 45.", " So"]),
        ("\\frac{10!}{2!8!} \\times 5! \\cdot 2", ["\\frac{10!}{2!8!} \\times 5! \\cdot 2"]),
        ("n! / (k!(n-k)!) = 6, so 6", ["n! / (k!(n-k)!) = 6,", " so 6"]),
        ("a 10\\,000, 0.\\overline{3}", ["a 10\\,000,", " 0.\\overline{3}"]),
        ("He won 5! Then (it was 6!) he", ["He won 5!", " Then (it was 6!)", " he"]),
        ("He pays Rs. 500. Then", ["He pays Rs. 500.", " Then"]),
        ("see https://a.b/c?x=1;y=2. Then", ["see https://a.b/c?x=1;y=2.", " Then"]),
        ("No. 5 is. No. He", ["No. 5 is.", " No.", " He"]),
        ("On Jan. 5 Prof. Lee has approx. 9", ["On Jan. 5 Prof. Lee has approx. 9"]),
        ("共1，005个，三", ["共1，005个，", "三"]),
        ("So\n12.\nThen", ["So\n", "12.\n", "Then"]),
        ("... and so", ["... and so"]),
        ("", []),
        (" \n", [" \n"]),
    ],
)
def test_pieces_by_hand(chain, pieces):
    assert split_pieces(chain) == pieces


texts = st.text() | st.text(alphabet='a1 3.,;!?\n。，；）”"$-胰é٣ ', max_size=40)


@settings(max_examples=500, deadline=None)
@given(texts)
def test_any_string_joins_back(text):
    pieces = split_pieces(text)
    assert "".join(pieces) == text and all(pieces)


@settings(max_examples=500, deadline=None)
@given(texts)
def test_every_piece_has_a_word_unless_there_is_none(text):
    pieces = split_pieces(text)
    assert all(any(c.isalnum() for c in piece) for piece in pieces) or len(pieces) == 1


@settings(max_examples=500, deadline=None)
@given(texts)
def test_no_cut_inside_a_number(text):
    cuts, position = set(), 0
    for piece in split_pieces(text):
        position += len(piece)
        cuts.add(position)
    for number in re.finditer(r"\d+(?:[.,]\d+)*|\.\d+", text):
        assert not cuts & set(range(number.start() + 1, number.end()))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=3), st.sampled_from([ES, AS]))))
def test_merged_segments_alternate_and_join_back(labelled):
    pieces, labels = [p for p, _ in labelled], [label for _, label in labelled]
    segments = make_segments(pieces, labels)
    assert [s.label for s in segments] == interleaved_labels(len(segments)) and segments[
        0
    ].label == ES
    assert "".join(s.text for s in segments) == "".join(pieces)
    assert all(s.pieces for s in segments[1:])
    assert [s.text for s in make_segments(pieces, labels, merge=False)] == pieces


def test_interleaving():
    assert interleaved_labels(0) == [] and interleaved_labels(4) == [ES, AS, ES, AS]


def test_merging_by_hand():
    segments = make_segments(TOY_PIECES, [AS, AS, ES, ES, AS])
    assert [(s.label, s.text) for s in segments] == [
        (ES, ""),
        (AS, TOY_PIECES[0] + TOY_PIECES[1]),
        (ES, TOY_PIECES[2] + TOY_PIECES[3]),
        (AS, TOY_PIECES[4]),
    ]
    with pytest.raises(ValueError, match="5 pieces but 1 labels"):
        make_segments(TOY_PIECES, [ES])


def test_token_entropy_by_hand():
    half = math.log(2)
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [1000.0, 0.0], [0.0, -math.inf]])
    three_quarters = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert torch.allclose(token_entropies(logits), torch.tensor([half, three_quarters, 0.0, 0.0]))
    assert torch.allclose(token_entropies(torch.zeros(2, 3, 50)), torch.full((2, 3), math.log(50)))


def test_token_entropy_is_taken_in_float32():
    logits = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)) * 8
    low = token_entropies(logits.bfloat16())
    assert low.dtype == torch.float32 and torch.allclose(
        low, token_entropies(logits.bfloat16().double()).float(), rtol=1e-5, atol=1e-6
    )


def test_piece_entropy_by_hand():
    tokens = [[1.0, 2.0, 3.0, 2.0], [4.0]]
    assert piece_entropies(tokens, gamma=0) == [8.0, 4.0]
    assert piece_entropies(tokens, gamma=0.5) == [4.0, 4.0]
    assert piece_entropies(tokens, gamma=1) == [2.0, 4.0]
    assert piece_entropies(tokens, gamma=2) == [0.5, 4.0]
    assert piece_entropies([[]], gamma=1) == [0.0]


def test_entropy_labels_by_hand():
    assert entropy_labels([1.0, 2.0, 6.0], beta=1.0) == [ES, ES, AS]  # mean 3
    assert entropy_labels([1.0, 2.0, 6.0], beta=0.5) == [ES, AS, AS]  # threshold 1.5
    assert entropy_labels([1.0, 2.0, 6.0], beta=2.0) == [ES, ES, ES]  # exactly the threshold is ES
    assert entropy_labels([], beta=1.0) == []
    assert (
        entropy_labels([0.7] * 3, beta=1.0) == [ES] * 3
    )  # the rounded mean of equal numbers lies below them


@pytest.mark.parametrize(
    "text", ["Mr. " * 50_000, " " * 200_000, "! " * 100_000, "1. " * 60_000, "a,b " * 50_000]
)
def test_long_chains_take_linear_time(text):
    """Quadratic time would take minutes here."""
    started = time.perf_counter()
    pieces = split_pieces(text)
    make_segments(pieces, [ES] * len(pieces))
    assert time.perf_counter() - started < 20


def test_agreement_by_hand():
    scores = role_agreement([[ES, AS, ES, AS]], [[ES, AS, AS, AS]])
    assert scores[ES] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert scores[AS] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
    }
    assert role_agreement([[ES]], [[ES]])[AS] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    with pytest.raises(ValueError, match="1 labels, 2 gold roles"):
        role_agreement([[ES, AS]], [[ES]])


def test_unicode_digits_are_digits():
    assert all(unicodedata.category(c) == "Nd" for c in "٣３") and split_pieces("٣,٣ ３.３") == [
        "٣,٣ ３.３"
    ]
