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


@pytest.mark.parametrize("context", ["prefix", "question"])
@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_entropies_are_those_of_plain_passes(model, tokenizer, context, batch_tokens):
    """Of a whole chain, or of each piece as if it were one; one sequence, no padding."""

    def plainly(question, ids):
        source = [*tokenizer.encode(question), tokenizer.eos_id]
        with torch.no_grad():
            logits = logits_of(model, torch.tensor([source]), torch.tensor([[0, *ids[:-1]]]))
        return token_entropies(logits)[0].tolist()

    given = model, tokenizer, QUESTIONS, PIECES, context
    entropies = chain_entropies(*given, batch_tokens=batch_tokens)
    for question, pieces, values in zip(QUESTIONS, PIECES, entropies, strict=True):
        ids = tokenizer.encode_pieces(pieces)
        assert list(map(len, values)) == list(map(len, ids))  # every token belongs to one piece
        alone = [sum(ids, [])] if context == "prefix" else ids
        expected = [value for part in alone for value in plainly(question, part)]
        assert sum(values, []) == pytest.approx(expected, abs=1e-4)


def test_dropout_is_off(model, tokenizer):
    expected = chain_entropies(model, tokenizer, QUESTIONS, PIECES)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert chain_entropies(model.train(), tokenizer, QUESTIONS, PIECES) == expected


def test_a_scorer_cuts_questions_at_its_own_limit(model, tokenizer):
    """Not at that of the run whose chains it labels."""
    example = Example("1", " ".join("abcdefghijklmnopqrstuvwxyz"), "".join(TOY_PIECES))
    short = Writer(Settings(mode="direct", max_question=16), tokenizer, {"direct": model})
    settings = Settings(segmentation="entropy", max_question=1024)
    [segmented] = segment([example], settings, short)
    given = model, tokenizer, [example.question], [TOY_PIECES]
    assert [segmented.token_entropies] == chain_entropies(*given, max_question=16)
