"""The tokenizer: exact, digit by digit, special tokens never read out of a text."""

import re

import pytest
from conftest import TOY, TOY_PIECES
from hypothesis import given, settings
from hypothesis import strategies as st

from ases.data import InputError
from ases.tokenizer import Tokenizer

TEXTS = ["Tom has 12 apples, so he has 12 apples.", "胰头部高代谢灶，考虑恶性。"]
ENGLISH = Tokenizer.train(TEXTS * 4, 400)
AWKWARD = ["<pad></s><end><sep>", "a<end>", "\0\n\t \u2028", "", "  two  blanks "]
AWKWARD += ["👩‍👩‍👧", "e\u0301"]


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_round_trip_of_any_string(text):
    assert ENGLISH.decode(ENGLISH.encode(text)) == text


@pytest.mark.parametrize("text", AWKWARD)
def test_round_trip_of_awkward_strings(text):
    ids = ENGLISH.encode(text)
    assert ENGLISH.decode(ids) == text and not ENGLISH.special_ids & set(ids)


def test_every_digit_is_a_token_of_its_own():
    for text in ["12", " 1,234.5", "3*4=12", "２３"]:
        tokens = [ENGLISH.decode([i]) for i in ENGLISH.encode(text)]
        assert all(len(re.findall(r"\d", token)) <= 1 for token in tokens), tokens
    tokens = [ENGLISH.decode([i]) for i in ENGLISH.encode(" has 12 apples")]
    assert tokens == [" has", " 1", "2", " apples"]


def test_pieces_are_encoded_one_by_one(tokenizer):
    encoded = tokenizer.encode_pieces(TOY_PIECES)
    assert [tokenizer.decode(ids) for ids in encoded] == TOY_PIECES
    assert tokenizer.decode([i for ids in encoded for i in ids]) == TOY.answer


def test_saved_and_loaded(tmp_path, tokenizer):
    (tmp_path / "tokenizer.json").write_text(tokenizer.text(), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.pad_id, loaded.eos_id, loaded.end_id) == (0, 1, 2)
    assert loaded.encode(TOY.answer) == tokenizer.encode(TOY.answer)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert not loaded.special_ids & set(loaded.encode("<end>"))


def test_no_tokenizer_in_the_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("tokenizer.json", "missing.json"):
        with pytest.raises(InputError, match="not a readable tokenizer"):
            Tokenizer.load(tmp_path / name)
