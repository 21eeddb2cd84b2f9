"""docs/minimal.py, the method on one page, is the oracle: the package says the same."""

import random
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

import minimal

from ases import segmentation
from ases.decoding import SegmentWriter, generate_chains
from ases.model import EncoderDecoder
from ases.optim import make_optimizers
from ases.pairs import Segmented, collate, rows_by_model
from ases.recipe import training_texts
from ases.settings import ModelConfig, Settings
from ases.tasks import make_splits
from ases.tokenizer import Tokenizer

SPLITS = make_splits("mwp", 40, 1, 1, seed=0, max_number=20)
EXAMPLES = SPLITS["train"]
TOKENIZER = Tokenizer.train(training_texts(SPLITS), 320)


@pytest.fixture(params=["block-causal", "bidirectional"])
def encoder(request, monkeypatch):
    monkeypatch.setattr(minimal, "BLOCK_CAUSAL", request.param == "block-causal")
    return request.param


def both_models(encoder, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(TOKENIZER.vocab_size, start_from_state=encoder == "block-causal")
    plain, ours = minimal.Model(TOKENIZER.vocab_size).double(), EncoderDecoder(config).double()
    plain.load_state_dict(ours.state_dict())
    return plain, ours.eval()


def segmented(labels_of):
    for e in EXAMPLES[:4]:
        pieces = segmentation.split_pieces(e.answer)
        labels = labels_of(len(pieces))
        yield Segmented(e, pieces, labels, segmentation.make_segments(pieces, labels))


def test_pieces_labels_and_segments():
    rng = random.Random(0)
    for e in EXAMPLES:
        pieces = segmentation.split_pieces(e.answer)
        assert minimal.split_pieces(e.answer) == pieces
        assert minimal.interleaved_labels(pieces) == segmentation.interleaved_labels(len(pieces))
        entropies = [[rng.random() for _ in range(rng.randint(1, 5))] for _ in pieces]
        for beta, gamma in ((1.0, 1.0), (1.2, 0.0)):
            values = segmentation.piece_entropies(entropies, gamma)
            labels = segmentation.entropy_labels(values, beta)
            assert minimal.entropy_labels(entropies, beta, gamma) == labels
            segments = segmentation.make_segments(pieces, labels)
            expected = [(s.label, list(s.pieces)) for s in segments]
            assert minimal.make_segments(pieces, labels) == expected


def plain_pairs(row):
    ids = [(s.label, sum(TOKENIZER.encode_pieces(list(s.pieces)), [])) for s in row.segments]
    return minimal.make_pairs(TOKENIZER.encode(row.example.question), ids)


RNG = random.Random(0)


def random_labels(n):
    return RNG.choices(("ES", "AS"), k=n)  # first segments may be empty


@pytest.mark.parametrize("labels", [segmentation.interleaved_labels, random_labels])
@pytest.mark.parametrize("model", ["usm", "asm"])
def test_losses_and_gradients(encoder, labels, model):
    """A row has the loss of its pairs, each encoded alone."""
    plain, ours = both_models(encoder)
    rows = list(segmented(labels))
    pairs = [pair for row in rows for pair in plain_pairs(row)]
    loss, n = plain.loss([pair for pair in pairs if model == "usm" or pair[0] == "AS"])
    mode = "usm" if model == "usm" else "dsm"
    batch = collate(rows_by_model(mode, rows, TOKENIZER, encoder)[model], TOKENIZER.pad_id)
    loss_sum = ours.loss_sum(batch)
    assert n == batch.target_tokens and loss_sum.item() == pytest.approx(loss.item(), rel=1e-12)
    loss.backward()
    loss_sum.backward()
    for name, parameter in plain.named_parameters():
        gradient = ours.get_parameter(name).grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", ["usm", "dsm"])
def test_chains(encoder, mode):
    plain, ours = both_models(encoder)
    plain_as, our_as = both_models(encoder, seed=1) if mode == "dsm" else (plain, ours)
    questions = [TOKENIZER.encode(e.question) for e in EXAMPLES[:6]]
    writer = SegmentWriter({"ES": ours, "AS": our_as}, TOKENIZER, encoder, 12)
    written = generate_chains(writer, questions, TOKENIZER, ("ES", "AS"), 4)
    for question, chain in zip(questions, written, strict=True):
        alone = minimal.write_chain({"ES": plain, "AS": plain_as}, question, 4, 12)
        if chain.stop == "stuck":  # which the page does not know
            alone = alone[: len(chain.ids)]
        assert alone == list(zip(chain.roles, chain.ids))


class Pulled(torch.nn.Module):
    """Its gradients are random, whatever its weights."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(6, 4, bias=False)
        self.decoder = torch.nn.Linear(4, 4, bias=False)
        self.head = torch.nn.Linear(5, 3, bias=False)
        self.generator = torch.Generator().manual_seed(1)

    def loss(self, pairs):
        pulls = [torch.randn(p.shape, generator=self.generator) for p in self.parameters()]
        return 3 * sum((p * pull).sum() for p, pull in zip(self.parameters(), pulls)), 3


def test_training_is_the_packages(monkeypatch):
    """Warm-up and decay, Muon with Nesterov momentum, AdamW, clipping."""
    monkeypatch.setattr(minimal.random, "sample", lambda chains, n: [[]])
    torch.manual_seed(0)
    start = Pulled()
    plain, ours = Pulled(), Pulled()
    plain.load_state_dict(start.state_dict())
    ours.load_state_dict(start.state_dict())
    minimal.train(plain, [], updates=40)

    settings = Settings(max_steps=40)
    optimizers = make_optimizers(ours, settings)
    for step in range(40):
        loss, n = ours.loss([])
        (loss / n).backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), settings.clip)
        for optimizer in optimizers:
            optimizer.set_rates(step / 40, settings.warmup)
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in start.named_parameters():
        moved, expected = (m.get_parameter(name) - parameter for m in (plain, ours))
        assert (moved - expected).norm() < 0.07 * expected.norm(), name  # by its simpler schedule
