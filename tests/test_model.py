"""The model: buckets against a table, padding that changes nothing, a cache that changes nothing."""

from dataclasses import replace

import pytest
import torch
from conftest import logits_of, read_whole

from ases.model import EncoderDecoder, RMSNorm, relative_position_bucket, token_losses
from ases.pairs import Pair, collate, make_rows
from ases.settings import SIZES, ModelConfig

LENGTHS = [(9, 6), (5, 6), (1, 6), (7, 6)]  # of source and target


def batch_of(lengths):
    pairs = [
        Pair("", [[3 + (7 * i + n) % 17 for i in range(n)]], [3 + (5 * i) % 17 for i in range(m)])
        for n, m in lengths
    ]
    return collate([row for p in pairs for row in make_rows([p], "bidirectional")], pad_id=0)


def test_bidirectional_buckets():
    # 8 buckets, distance up to 16: 0, 1 exact; then log2(d / 2) / log2(16 / 2) · 2 steps; keys to the right + 4
    distances = torch.tensor([-100, -16, -15, -6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 15, 16, 100])
    assert relative_position_bucket(distances, True, 8, 16).tolist() == list(
        map(int, "3 3 3 3 2 2 2 1 0 5 6 6 6 7 7 7 7".split())
    )


def test_causal_buckets():
    # 8 buckets, distance up to 16: 0 to 3 exact, then four steps of the logarithm from 4 to 16; the future is bucket 0
    distances = torch.tensor([3, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8, -9, -11, -12, -15, -16, -99])
    assert relative_position_bucket(distances, False, 8, 16).tolist() == list(
        map(int, "0 0 0 1 2 3 4 4 5 5 6 6 6 7 7 7 7".split())
    )


@pytest.mark.parametrize(
    "variant",
    [
        dict(),
        dict(feed_forward="relu", tie_word_embeddings=True, scale_decoder_outputs=True),
        dict(
            num_layers=1,
            num_decoder_layers=3,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
        ),
    ],
)
def test_every_parameter_gets_a_gradient(variant):
    model = EncoderDecoder(
        ModelConfig(
            vocab_size=20,
            **(
                dict(
                    d_model=16,
                    d_kv=4,
                    d_ff=24,
                    num_layers=2,
                    num_decoder_layers=2,
                    num_heads=3,
                    dropout_rate=0.0,
                )
                | variant
            ),
        )
    )
    model.loss_sum(batch_of(LENGTHS)).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters()
    )


def test_gradients_written_out_are_those_of_the_definitions():
    norm = RMSNorm(5, 1e-6).double()
    norm.weight.data.normal_()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    by_hand = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    assert torch.allclose(norm(x), by_hand)
    with torch.no_grad():
        assert torch.allclose(norm(x), by_hand)
    assert torch.autograd.gradcheck(norm, x)
    of_weight = torch.autograd.grad(by_hand.pow(2).sum(), norm.weight)
    assert torch.allclose(*torch.autograd.grad(norm(x).pow(2).sum(), norm.weight), *of_weight)

    target = torch.tensor([[0, 4, -100], [-100, 2, 2]])
    losses = -x.log_softmax(-1)
    by_hand = sum(losses[b, t, i] for b, t, i in ((0, 0, 0), (0, 1, 4), (1, 1, 2), (1, 2, 2)))
    expected = torch.autograd.grad(3 * by_hand, x)
    assert torch.allclose(token_losses(x, target), by_hand)
    assert torch.allclose(*torch.autograd.grad(3 * token_losses(x, target), x), *expected)
    large = token_losses(torch.tensor([[[0.0, 1e4]]]), torch.tensor([[0]]))
    assert large == 1e4  # no probability is too small


def test_padding_more_changes_nothing(model):
    short = batch_of([(7, 6), (3, 4), (5, 6)])
    long = batch_of([(7, 6), (3, 4), (5, 6), (12, 10)])
    rows = slice(0, 3)  # the same three rows, padded to the length of a fourth
    padding = torch.randint(0, 20, long.source.shape)  # what stands in it does not matter
    wider = replace(
        long,
        source=torch.where(long.source == 0, padding, long.source)[rows],
        decoder_input=long.decoder_input[rows],
        target=long.target[rows],
        source_span=[end[rows] for end in long.source_span],
        target_span=[end[rows] for end in long.target_span],
        cross_span=[end[rows] for end in long.cross_span],
        begins=[part[rows] for part in long.begins],
    )
    assert torch.allclose(model.loss_sum(wider), model.loss_sum(short), rtol=1e-6)


def test_loss_is_a_sum_over_real_target_tokens(model):
    batch = batch_of([(5, 3), (4, 2)])
    source, lengths = batch.source, torch.tensor([5, 4])
    log_p = logits_of(model, source, batch.decoder_input, lengths).log_softmax(-1)
    real = [(b, t) for b, n in enumerate((3, 2)) for t in range(n)]
    by_hand = -sum(log_p[b, t, batch.target[b, t]] for b, t in real)
    assert torch.allclose(model.loss_sum(batch), by_hand)


SOURCES = [[4, 5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15]]
SOURCE = torch.tensor([row + [0] * (6 - len(row)) for row in SOURCES])
LENGTHS_OF_SOURCES = torch.tensor([6, 2, 4])


@pytest.mark.parametrize("chunks", [[1] * 8, [3, 1, 4], [8]])
@torch.no_grad()
def test_cached_writing_is_the_forward_pass(model, chunks):
    inputs = torch.randint(0, 90, (3, 8))
    whole = logits_of(model, SOURCE, inputs, LENGTHS_OF_SOURCES)
    cache = read_whole(model, SOURCES)
    parts = [model.write(chunk, cache) for chunk in inputs.split(chunks, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


@torch.no_grad()
def test_cache_rows_can_be_selected(model):
    inputs = torch.randint(0, 90, (3, 4))
    cache = read_whole(model, SOURCES)
    model.write(inputs[:, :2], cache)
    rows = torch.tensor([2, 0, 2])
    cache.select(rows)
    whole = logits_of(model, SOURCE, inputs, LENGTHS_OF_SOURCES)
    assert torch.allclose(model.write(inputs[rows, 2:], cache), whole[rows, 2:], atol=1e-5)


def test_sizes_by_name_and_bad_shapes():
    assert SIZES["base"] == dict(
        d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12
    )
    for bad in (
        dict(feed_forward="swish"),
        dict(d_model=0),
        dict(relative_attention_num_buckets=6),
        dict(relative_attention_max_distance=16),
        dict(dropout_rate=1.0),
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ModelConfig(vocab_size=10, **bad)
