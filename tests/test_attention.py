"""Attention: every mask against arithmetic by hand, SDPA against the reference, and refusals."""

import itertools
import math

import pytest
import torch

from ases.attention import attention, block_span, causal_span, packed_span

Q, T = 4, 6
ENDS = torch.tensor([[6, 6, 6, 6], [2, 2, 2, 2]])
RUNS = {
    "all keys": (None, None),
    "padding": block_span(ENDS),
    "padding on both sides": block_span(ENDS, torch.tensor([4, 1])),
    "causal": causal_span(Q),
    "causal with a cache": causal_span(Q, offset=2),
    "blocks": block_span(torch.tensor([[1, 1, 3, 3], [2, 4, 4, 6]])),
    "prefix, empty at first": block_span(torch.tensor([[0, 0, 3, 3], [0, 2, 2, 5]])),
    "packed": packed_span(torch.tensor([[0, 0, 2, 2], [0, 1, 1, 4]])),
    "first only": (torch.tensor([[0, 1, 3, 6], [0, 0, 0, 0]]), None),
    "gaps": tuple(torch.tensor([[[0, 3, 3, 5], [1, 1, 4, 4]], [[1, 4, 4, 6], [2, 2, 5, 5]]])),
}


def spans(mask):
    return dict(zip(("first", "last"), RUNS[mask]))


def random_inputs(B, H, Q, T, K, dtype=torch.float64, seed=0, span=2):
    """q, k, v, rel_bias."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(B, H, n, K) for n in (Q, T, T)] + ([] if span is None else [(H, 2 * span + 1)])
    inputs = [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]
    return inputs if span is not None else [*inputs, None]


def by_loops(q, k, v, rel_bias, first, last, query_offset, scale):
    """The definition, one number at a time."""
    out = torch.zeros_like(q)
    span = 0 if rel_bias is None else rel_bias.shape[1] // 2
    for b, h, i in itertools.product(*map(range, q.shape[:3])):
        start = 0 if first is None else int(first.expand(len(q), -1)[b, i])
        stop = k.shape[2] if last is None else int(last.expand(len(q), -1)[b, i])
        scores = []
        for j in range(start, stop):
            difference = max(-span, min(span, j - i - query_offset))
            bias = 0.0 if rel_bias is None else float(rel_bias[h, difference + span])
            scores.append(scale * float(q[b, h, i] @ k[b, h, j]) + bias)
        weights = [math.exp(s - max(scores)) for s in scores]
        for j, weight in zip(range(start, stop), weights):
            out[b, h, i] += weight / sum(weights) * v[b, h, j]
    return out


def with_gradients(backend, inputs, do, **arguments):
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = attention(*inputs, backend=backend, **arguments)
    return [out.detach(), *torch.autograd.grad(out, inputs, do)]


both = pytest.mark.parametrize("backend", ["reference", "sdpa"])


@both
@pytest.mark.parametrize("span", [None, 0, 2, 50])
@pytest.mark.parametrize("mask", RUNS)
def test_against_the_definition(backend, span, mask):
    inputs = random_inputs(2, 3, Q, T, 5, span=span)
    arguments = spans(mask) | dict(query_offset=2, scale=0.7)
    expected = by_loops(*inputs, **arguments)
    assert torch.allclose(attention(*inputs, **arguments, backend=backend), expected, atol=1e-12)


@pytest.mark.parametrize("mask", RUNS)
def test_sdpa_equals_reference_with_gradients(mask):
    inputs, [do, *_] = (random_inputs(2, 3, Q, T, 5, seed=seed) for seed in (0, 1))
    arguments = spans(mask) | dict(query_offset=1, scale=0.7)
    expected = with_gradients("reference", inputs, do, **arguments)
    for a, b in zip(with_gradients("sdpa", inputs, do, **arguments), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@both
def test_a_query_without_keys_gives_zero_and_no_gradient(backend):
    do = torch.zeros(2, 3, Q, 5, dtype=torch.float64)
    do[1, :, 1:] = 1.0  # only queries that see nothing
    inputs = random_inputs(2, 3, Q, T, 5)
    out, *gradients = with_gradients(backend, inputs, do, **spans("padding on both sides"))
    assert not out[1, :, 1:].any() and not any(g.any() for g in gradients)


def test_nothing_leaks_from_keys_that_nobody_sees():
    inputs, do = random_inputs(2, 3, Q, T, 5), torch.ones(2, 3, Q, 5, dtype=torch.float64)
    clean = with_gradients("reference", inputs, do, **spans("gaps"))
    for x in inputs[1:3]:  # unseen: keys 1 and 2 of row 0, keys 0, 2, 3 and 5 of row 1
        x[0, :, 1:3], x[1, :, [0, 2, 3, 5]] = math.nan, math.inf
    poisoned = with_gradients("reference", inputs, do, **spans("gaps"))
    assert all(map(torch.equal, clean, poisoned))


@both
def test_no_row_is_nan_however_large_the_scores(backend):
    q, k, v, rel_bias = random_inputs(2, 2, 5, 9, 8, torch.float32)
    first, last = block_span(torch.tensor([[1] * 5, [9] * 5]))
    out = attention(1e4 * q, k, v, 1e4 * rel_bias, first=first, last=last, backend=backend)
    assert out.isfinite().all()
    assert torch.allclose(out[0], v[0, :, :1].expand(2, 5, 8))  # one key: its value


def test_offsets_beyond_all_numbers():
    *qkv, rel_bias = random_inputs(1, 2, Q, T, 5)
    far = attention(*qkv, rel_bias, query_offset=2**62, backend="reference")
    outermost = rel_bias[:, :1].expand(-1, 5).contiguous()  # all keys lie far to the left
    assert torch.allclose(far, attention(*qkv, outermost, backend="reference"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type(dtype):
    inputs, mask = random_inputs(2, 3, Q, T, 5), spans("gaps")
    out = attention(*inputs, **{name: end.to(dtype) for name, end in mask.items()})
    assert torch.equal(out, attention(*inputs, **mask))


MISFITS = [dict(k=torch.zeros(2, 3, 6, 4)), dict(v=torch.zeros(2, 3, 5, 5)), dict(backend="flash")]
MISFITS += [dict(rel_bias=torch.zeros(3, 10)), dict(rel_bias=torch.zeros(2, 9))]


@pytest.mark.parametrize("change", MISFITS)
def test_shapes_must_fit(change):
    inputs = zip(("q", "k", "v", "rel_bias"), random_inputs(2, 3, Q, T, 5, torch.float32))
    with pytest.raises(AssertionError):
        attention(**(dict(inputs) | change))
