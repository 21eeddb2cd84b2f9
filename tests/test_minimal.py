"""docs/minimal.py, the method on one page, is the oracle: the package says the same."""

import importlib.util
import random
from pathlib import Path

import pytest
import torch

from ases.decoding import SegmentWriter, generate_chains
from ases.model import EncoderDecoder
from ases.pairs import Segmented, collate, make_pairs, rows_by_model
from ases.segmentation import (
    entropy_labels,
    interleaved_labels,
    make_segments,
    piece_entropies,
    split_pieces,
)
from ases.settings import ModelConfig
from ases.tasks import make_splits
from ases.tokenizer import Tokenizer

PATH = Path(__file__).parent.parent / "docs" / "minimal.py"
EXAMPLES = make_splits("mwp", 40, 1, 1, seed=0, max_number=20)["train"]
TEXTS = [text for e in EXAMPLES for text in (e.question, e.answer)]
TOKENIZER = Tokenizer.train(TEXTS, 320)


@pytest.fixture(params=["block-causal", "bidirectional"])
def encoder(request):
    return request.param


@pytest.fixture
def minimal(encoder):
    spec = importlib.util.spec_from_file_location("minimal", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BLOCK_CAUSAL = encoder == "block-causal"
    return module


def both_models(minimal, encoder, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(TOKENIZER.vocab_size, start_from_state=encoder == "block-causal")
    plain, ours = minimal.Model(TOKENIZER.vocab_size).double(), EncoderDecoder(config).double()
    plain.load_state_dict(ours.state_dict())
    return plain, ours.eval()


def segmented(labels=interleaved_labels):
    rows = []
    for e in EXAMPLES:
        pieces = split_pieces(e.answer)
        own = labels(len(pieces))
        rows.append(Segmented(e, pieces, own, make_segments(pieces, own)))
    return rows


def test_pieces_labels_and_segments(minimal):
    rng = random.Random(0)
    for e in EXAMPLES:
        pieces = split_pieces(e.answer)
        assert minimal.split_pieces(e.answer) == pieces
        assert minimal.interleaved_labels(pieces) == interleaved_labels(len(pieces))
        entropies = [[rng.random() for _ in range(rng.randint(1, 5))] for _ in pieces]
        for beta, gamma in ((1.0, 1.0), (1.2, 0.0)):
            labels = entropy_labels(piece_entropies(entropies, gamma), beta)
            assert minimal.entropy_labels(entropies, beta, gamma) == labels
            segments = [(s.label, list(s.pieces)) for s in make_segments(pieces, labels)]
            assert minimal.make_segments(pieces, labels) == segments


def plain_pairs(minimal, row):
    ids = [(s.label, sum(TOKENIZER.encode_pieces(list(s.pieces)), [])) for s in row.segments]
    return minimal.make_pairs(TOKENIZER.encode(row.example.question), ids)


def test_pairs(minimal):
    assert (minimal.PAD, minimal.EOS, minimal.END) == (
        TOKENIZER.pad_id,
        TOKENIZER.eos_id,
        TOKENIZER.end_id,
    )
    for row in segmented():
        ours = make_pairs(row.example.question, row.segments, TOKENIZER)
        assert plain_pairs(minimal, row) == [(p.role, p.context, p.target) for p in ours]


def random_labels(n):
    return [random.choice(("ES", "AS")) for _ in range(n)]  # first segments may be empty


@pytest.mark.parametrize("labels", [interleaved_labels, random_labels])
@pytest.mark.parametrize("model", ["usm", "asm"])
def test_losses_and_gradients(minimal, encoder, labels, model):
    """A row has the loss of its pairs, each encoded alone."""
    plain, ours = both_models(minimal, encoder)
    rows = segmented(labels)[:8]
    pairs = [pair for row in rows for pair in plain_pairs(minimal, row)]
    loss, n = plain.loss([pair for pair in pairs if model == "usm" or pair[0] == "AS"])
    mode = "usm" if model == "usm" else "dsm"
    batch = collate(rows_by_model(mode, rows, TOKENIZER, encoder)[model], TOKENIZER.pad_id)
    own = ours.loss_sum(batch)
    assert n == batch.target_tokens and own.item() == pytest.approx(loss.item(), rel=1e-12)
    loss.backward()
    own.backward()
    for name, parameter in plain.named_parameters():
        gradient = ours.get_parameter(name).grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", ["usm", "dsm"])
def test_chains(minimal, encoder, mode):
    plain, ours = both_models(minimal, encoder)
    models = {"ES": (plain, ours), "AS": (plain, ours)}
    if mode == "dsm":
        models["AS"] = both_models(minimal, encoder, seed=1)
    questions = [TOKENIZER.encode(e.question) for e in EXAMPLES[:6]]
    fast = {role: m[1] for role, m in models.items()}
    writer = SegmentWriter(fast, TOKENIZER, encoder, 12)
    written = generate_chains(writer, questions, TOKENIZER, ("ES", "AS"), 4)
    for question, chain in zip(questions, written, strict=True):
        alone = minimal.write_chain({role: m[0] for role, m in models.items()}, question, 4, 12)
        if chain.stop == "stuck":  # which the page does not know
            alone = alone[: len(chain.ids)]
        assert alone == list(zip(chain.roles, chain.ids))
