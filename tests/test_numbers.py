"""Numbers that could go wrong without a word: half precision, compiling, batches that are cut up."""

from itertools import pairwise

import pytest
import torch

from ases import training
from ases.model import EncoderDecoder
from ases.pairs import collate, rows_by_model
from ases.recipe import segment, training_texts
from ases.settings import SIZES, ModelConfig, Settings
from ases.tasks import make_splits
from ases.tokenizer import Tokenizer
from ases.training import Training


@pytest.fixture(scope="module")
def rows():
    """USM's rows of generated problems, and the size of their vocabulary."""
    splits = make_splits("mwp", 48, 4, 4, seed=0, max_number=20)
    tokenizer = Tokenizer.train(training_texts(splits), 400)
    cut = segment(splits["train"])
    return rows_by_model("usm", cut, tokenizer, "block-causal")["usm"], tokenizer.vocab_size


@pytest.fixture
def batches(rows):
    return [collate(rows[0][i : i + 8], 0) for i in range(0, 48, 8)], rows[1]


def new_training(vocab_size, **settings):
    torch.manual_seed(0)
    model = EncoderDecoder(ModelConfig(vocab_size=vocab_size, **SIZES["micro"]))
    return Training("usm", model, Settings(max_steps=40, validations=1, log_every=1000, **settings))


def losses(trained, updates, monkeypatch):
    """Loss per target token of each update, a list of batches."""
    stream = (batch for update in updates for batch in update)
    monkeypatch.setattr(training, "_stream", lambda rows, trained: stream)
    losses = []
    for update, _ in zip(updates, training.fit(trained, [[]], [[]])):
        losses.append(float(trained.loss_sum) / sum(batch.target_tokens for batch in update))
        trained.loss_sum.zero_()
    return losses


@pytest.mark.slow
def test_bfloat16_stays_close_to_float32(batches, monkeypatch):
    """The first loss within 0.5 %; those of 40 updates, over which errors add up, within 3 %."""
    batches, vocab_size = batches
    updates = [[batches[i % len(batches)]] for i in range(39)]
    full = losses(new_training(vocab_size), updates, monkeypatch)
    half = losses(new_training(vocab_size, dtype="bfloat16"), updates, monkeypatch)
    assert half[0] == pytest.approx(full[0], rel=0.005)
    assert half == pytest.approx(full, rel=0.03)
    assert full[-1] < 0.7 * full[0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiling_changes_nothing_but_rounding(batches, backend):
    batches, vocab_size = batches
    model = new_training(vocab_size).model
    compiled = torch.compile(model.loss_sum, backend=backend)

    def loss_and_gradients(loss_sum, batch):
        model.zero_grad()
        loss = loss_sum(batch)
        loss.backward()
        return loss, [p.grad.clone() for p in model.parameters()]

    for batch in batches[:3]:
        expected, expected_gradients = loss_and_gradients(model.loss_sum, batch)
        loss, gradients = loss_and_gradients(compiled, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-4)


def test_a_batch_in_parts_is_the_batch(rows, monkeypatch):
    """Accumulated, whatever the parts, gradients and losses are those of the whole."""
    rows, size = rows[0][:12], rows[1]
    whole = losses(new_training(size), [[collate(rows, 0)]] * 3, monkeypatch)
    for ends in ((1, 12), (5, 6, 12), range(1, 13)):
        parts = [collate(rows[start:end], 0) for start, end in pairwise((0, *ends))]
        in_parts = losses(new_training(size, accumulate=len(parts)), [parts] * 3, monkeypatch)
        assert in_parts == pytest.approx(whole, rel=1e-4)
