"""The model: buckets against a table, padding that changes nothing, a cache that changes nothing."""

from dataclasses import replace

import pytest
import torch
from conftest import logits_of, read_whole

from ases.model import EncoderDecoder, RMSNorm, relative_position_bucket, summed_loss
from ases.pairs import Pair, collate
from ases.settings import ModelConfig


def batch_of(lengths):
    """Of pairs with these lengths of source and target."""
    ids = lambda n, step, start: [3 + (step * i + start) % 17 for i in range(n)]
    return collate([[Pair("", [ids(n, 7, n)], ids(m, 5, 0))] for n, m in lengths], pad_id=0)


# 8 buckets, distance up to 16. Both directions: 0, 1 exact; then log2(d / 2) / log2(16 / 2) · 2
# steps; keys to the right + 4. Causal: 0 to 3 exact, then four steps of the logarithm from 4 to 16;
# the future is bucket 0.
BOTH = {-100: 3, -16: 3, -15: 3, -6: 3, -5: 2, -3: 2, -2: 2, -1: 1, 0: 0}
BOTH |= {1: 5, 2: 6, 3: 6, 5: 6, 6: 7, 15: 7, 16: 7, 100: 7}
CAUSAL = {3: 0, 1: 0, 0: 0, -1: 1, -2: 2, -3: 3, -4: 4, -5: 4, -6: 5, -7: 5}
CAUSAL |= {-8: 6, -9: 6, -11: 6, -12: 7, -15: 7, -16: 7, -99: 7}


@pytest.mark.parametrize("bidirectional, table", [(True, BOTH), (False, CAUSAL)])
def test_buckets_by_hand(bidirectional, table):
    buckets = relative_position_bucket(torch.tensor([*table]), bidirectional, 8, 16)
    assert buckets.tolist() == [*table.values()]


def test_gradients_written_out_are_those_of_the_definitions():
    norm = RMSNorm(5, 0.5).double()  # an epsilon that shows
    norm.weight.data.normal_()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    by_hand = x / (x.pow(2).mean(-1, keepdim=True) + 0.5).sqrt() * norm.weight
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
    assert torch.allclose(summed_loss(x, target), by_hand)
    assert torch.allclose(*torch.autograd.grad(3 * summed_loss(x, target), x), *expected)
    large = summed_loss(torch.tensor([[[0.0, 1e4]]]), torch.tensor([[0]]))
    assert large == 1e4  # no probability is too small


def test_padding_more_changes_nothing(model):
    short = batch_of([(7, 6), (3, 4), (5, 6)])
    long = batch_of([(7, 6), (3, 4), (5, 6), (12, 10)])
    rows = slice(0, 3)  # the same three rows, padded to the length of a fourth
    padding = torch.randint(0, 20, long.source.shape)  # what stands in it does not matter
    wider = {name: getattr(long, name)[rows] for name in ("source", "decoder_input", "target")}
    wider["source"] = torch.where(wider["source"] == 0, padding[rows], wider["source"])
    for name in ("source_span", "target_span", "cross_span", "begins"):
        wider[name] = [part[rows] for part in getattr(long, name)]
    wider = replace(long, **wider)
    assert torch.allclose(model.loss_sum(wider), model.loss_sum(short), rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 8, [3, 1, 4], [8]])
def test_cached_writing_is_the_forward_pass(model, chunks):
    sources = [[4, 5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15]]
    padded = torch.tensor([row + [0] * (6 - len(row)) for row in sources])
    inputs, cache = torch.randint(0, 90, (3, 8)), read_whole(model, sources)
    parts = [model.decode(chunk, cache) for chunk in inputs.split(chunks, dim=1)]
    whole = logits_of(model, padded, inputs, torch.tensor([6, 2, 4]))
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


BAD = dict(feed_forward="swish", d_model=0, dropout_rate=1.0)
BAD |= dict(relative_attention_num_buckets=6, relative_attention_max_distance=16)
IDS = "pad_token_id decoder_start_token_id eos_token_id".split()
REFUSED = [(name, value, name) for name, value in BAD.items()]
REFUSED += [(name, 10, f"{name} is 10; expected less than vocab_size") for name in IDS]


@pytest.mark.parametrize("name, value, message", REFUSED)
def test_bad_settings_are_refused_by_name(name, value, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(vocab_size=10, **{name: value})


def test_bfloat16_is_widened_where_sums_are_long():
    x = torch.randn(40, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm = RMSNorm(512, 1e-6)
    exact = norm(x.double())
    assert ((norm(x) - exact) / exact).abs().max() < 2**-8  # one rounding, at the end
    losses = summed_loss(x[None], torch.zeros(1, 40, dtype=torch.long))
    assert losses.dtype == torch.float32
    exact = summed_loss(x[None].double(), torch.zeros(1, 40, dtype=torch.long))
    assert torch.allclose(losses.double(), exact, rtol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_initial_weights_preserve_variance(scaled):
    torch.manual_seed(0)
    shape = dict(d_model=32, d_kv=16, d_ff=2048, num_heads=8, num_layers=1, num_decoder_layers=1)
    model = EncoderDecoder(ModelConfig(vocab_size=400, scale_scores=scaled, **shape))
    block, of_model = model.decoder[0], 32**-0.5
    attention, ff = block.cross_attention, block.feed_forward
    expected = {ff.down: 2048**-0.5, ff.up: of_model, ff.gate: of_model, attention.o: 128**-0.5}
    expected |= {attention.q: of_model if scaled else (32 * 16) ** -0.5, attention.k: of_model}
    expected |= {attention.v: of_model, model.head: of_model, model.embedding: 1.0}
    for part, spread in expected.items():
        assert float(part.weight.std()) == pytest.approx(spread, rel=0.1)


def test_weights_without_values_are_refused():
    weights = {"a": torch.zeros(2, device="meta")}
    with pytest.raises(ValueError, match="without values"):
        EncoderDecoder.with_weights(ModelConfig(vocab_size=10), weights)
