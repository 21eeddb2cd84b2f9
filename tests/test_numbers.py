"""Numbers that could go wrong without a word: half precision, compiling, batches that are cut up."""

import pytest
import torch

from ases.config import SIZES, ModelConfig, TrainingSettings
from ases.model import EncoderDecoder
from ases.pairs import collate, rows_by_model
from ases.recipe import segment, training_texts
from ases.tasks import make_splits
from ases.tokenizer import Tokenizer
from ases.training import Training


@pytest.fixture(scope="module")
def batches():
    """USM's batches of generated problems."""
    splits = make_splits("mwp", 48, 4, 4, seed=0, max_number=20)
    tokenizer = Tokenizer.train(training_texts(splits), 400)
    rows = rows_by_model("usm", segment(splits["train"]), tokenizer, "block-causal")["usm"]
    return [collate(rows[i : i + 8], 0) for i in range(0, 48, 8)], tokenizer.vocab_size


def new_training(vocab_size, **settings):
    torch.manual_seed(0)
    model = EncoderDecoder(ModelConfig(vocab_size=vocab_size, **SIZES["micro"]))
    return Training(model, TrainingSettings(max_steps=40, **settings))


def losses(training, batches, n):
    """Loss per target token of each update."""
    found = []
    for i in range(n):
        batch = batches[i % len(batches)]
        training.update([batch])
        found.append(float(training.loss_sum) / batch.target_tokens)
        training.loss_sum.zero_()
    return found


def test_bfloat16_stays_close_to_float32(batches):
    """The loss of one model within 0.5 %, and the losses of 40 updates, over which errors add up, within 3 %."""
    batches, vocab_size = batches
    full = losses(new_training(vocab_size), batches, 40)
    half = losses(new_training(vocab_size, dtype="bfloat16"), batches, 40)
    assert half[0] == pytest.approx(full[0], rel=0.005)
    assert half == pytest.approx(full, rel=0.03)
    assert full[-1] < 0.7 * full[0]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiling_changes_nothing_but_rounding(batches, backend):
    batches, vocab_size = batches
    model = new_training(vocab_size).model
    compiled = torch.compile(model.loss_sum, backend=backend)
    for batch in batches[:3]:
        model.zero_grad()
        expected = model.loss_sum(batch)
        expected.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        found = compiled(batch)
        found.backward()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-4)


def test_a_batch_in_parts_is_the_batch(batches):
    """Accumulated, whatever the parts, gradients and losses are those of the whole."""
    splits = make_splits("mwp", 12, 4, 4, seed=1, max_number=20)
    tokenizer = Tokenizer.train(training_texts(splits), 400)
    rows = rows_by_model("usm", segment(splits["train"]), tokenizer, "block-causal")["usm"]
    whole = losses(new_training(tokenizer.vocab_size), [collate(rows, 0)], 3)
    for parts in ((1, 11), (5, 1, 6), (1,) * 12):
        training = new_training(tokenizer.vocab_size)
        for expected in whole:
            start, cut = 0, []
            for n in parts:
                cut.append(collate(rows[start : start + n], 0))
                start += n
            training.update(cut)
            tokens = sum(part.target_tokens for part in cut)
            assert float(training.loss_sum) / tokens == pytest.approx(expected, rel=1e-4)
            training.loss_sum.zero_()
