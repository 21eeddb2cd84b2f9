"""Token entropies of a chain, against one plain forward pass each."""

import pytest
import torch
from conftest import TOY, TOY_PIECES, logits_of

from ases.entropy import chain_entropies, token_entropies

QUESTIONS = [TOY.question, "He eats 2.", TOY.question]
PIECES = [TOY_PIECES, [" so 12 - 2 = 10 are left."], TOY_PIECES[::-1]]


def plainly(model, tokenizer, question, ids):
    """Entropies of the tokens ``ids`` after ``question``, one sequence, no padding."""
    source = [*tokenizer.encode(question), tokenizer.eos_id]
    with torch.no_grad():
        logits = logits_of(model, torch.tensor([source]), torch.tensor([[0, *ids[:-1]]]))
    return token_entropies(logits)[0].tolist()


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_prefix_scores_the_chain_in_one_pass(model, tokenizer, batch_tokens):
    found = chain_entropies(
        model, tokenizer, QUESTIONS, PIECES, "prefix", batch_tokens=batch_tokens
    )
    for question, pieces, values in zip(QUESTIONS, PIECES, found):
        ids = tokenizer.encode_pieces(pieces)
        assert [len(v) for v in values] == [len(i) for i in ids]  # every token belongs to one piece
        assert [h for v in values for h in v] == pytest.approx(
            plainly(model, tokenizer, question, [i for piece in ids for i in piece]), abs=1e-4
        )


def test_question_scores_each_piece_on_its_own(model, tokenizer):
    found = chain_entropies(model, tokenizer, QUESTIONS, PIECES, "question")
    for question, pieces, values in zip(QUESTIONS, PIECES, found):
        for ids, v in zip(tokenizer.encode_pieces(pieces), values):
            assert v == pytest.approx(plainly(model, tokenizer, question, ids), abs=1e-4)


def test_the_first_piece_is_the_same_in_both(model, tokenizer):
    prefix, question = (
        chain_entropies(model, tokenizer, QUESTIONS, PIECES, context)
        for context in ("prefix", "question")
    )
    assert prefix[0][0] == pytest.approx(question[0][0], abs=1e-4) and prefix[0][
        1
    ] != pytest.approx(question[0][1], abs=1e-2)


def test_dropout_is_off(model, tokenizer):
    expected = chain_entropies(model, tokenizer, QUESTIONS, PIECES)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert chain_entropies(model.train(), tokenizer, QUESTIONS, PIECES) == expected
