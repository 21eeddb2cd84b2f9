"""Token entropies of a chain, against one plain forward pass each."""

import pytest
import torch
from conftest import TOY, TOY_PIECES, logits_of

from ases.data import Example
from ases.entropy import chain_entropies, token_entropies
from ases.recipe import Writer, segment
from ases.settings import Settings

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
    given = model, tokenizer, QUESTIONS, PIECES, "prefix"
    found = chain_entropies(*given, batch_tokens=batch_tokens)
    for question, pieces, values in zip(QUESTIONS, PIECES, found):
        ids = tokenizer.encode_pieces(pieces)
        assert [len(v) for v in values] == [len(i) for i in ids]  # every token belongs to one piece
        expected = plainly(model, tokenizer, question, sum(ids, []))
        assert sum(values, []) == pytest.approx(expected, abs=1e-4)


def test_question_scores_each_piece_on_its_own(model, tokenizer):
    found = chain_entropies(model, tokenizer, QUESTIONS, PIECES, "question")
    for question, pieces, values in zip(QUESTIONS, PIECES, found):
        for ids, v in zip(tokenizer.encode_pieces(pieces), values):
            assert v == pytest.approx(plainly(model, tokenizer, question, ids), abs=1e-4)


def test_dropout_is_off(model, tokenizer):
    expected = chain_entropies(model, tokenizer, QUESTIONS, PIECES)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert chain_entropies(model.train(), tokenizer, QUESTIONS, PIECES) == expected


def test_entropies_are_computed_in_float32():
    logits = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)) * 8
    low, exact = (token_entropies(x) for x in (logits.bfloat16(), logits.bfloat16().double()))
    assert low.dtype == torch.float32
    assert torch.allclose(low, exact.float(), rtol=1e-5, atol=1e-6)


def test_a_scorer_cuts_questions_at_its_own_limit(model, tokenizer):
    """Not at that of the run whose chains it labels."""
    example = Example("1", " ".join("abcdefghijklmnopqrstuvwxyz"), "".join(TOY_PIECES))
    short = Writer(Settings(mode="direct", max_question=16), tokenizer, {"direct": model})
    settings = Settings(segmentation="entropy", max_question=1024)
    [found] = segment([example], settings, short)
    [expected] = chain_entropies(
        model, tokenizer, [example.question], [TOY_PIECES], max_question=16
    )
    assert found.token_entropies == expected
