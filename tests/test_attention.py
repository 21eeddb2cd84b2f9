"""Attention: the reference against arithmetic by hand, SDPA against the reference, and refusals."""

import itertools
import math

import pytest
import torch

from ases.attention import attention, toeplitz


def random_inputs(B, H, S, T, K, dtype=torch.float32, seed=0, bias=True):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, n, K, generator=g, dtype=torch.float64).to(dtype) for n in (S, T, T))
    rel_bias = torch.randn(H, S + T - 1, generator=g, dtype=torch.float64).to(dtype) if bias else None
    lengths = torch.randint(1, T + 1, (B,), generator=g)
    return q, k, v, rel_bias, lengths


def by_loops(q, k, v, rel_bias, causal, key_lengths, query_offset, scale):
    """The definition, one number at a time."""
    B, H, S, K = q.shape
    T = k.shape[2]
    out = torch.zeros_like(q)
    for b, h, i in itertools.product(range(B), range(H), range(S)):
        seen = [j for j in range(T) if (key_lengths is None or j < key_lengths[b]) and (not causal or j <= i + query_offset)]
        scores = [scale * float(q[b, h, i] @ k[b, h, j]) + (0 if rel_bias is None else float(rel_bias[h, j - i + S - 1])) for j in seen]
        weights = [math.exp(s - max(scores)) for s in scores]
        out[b, h, i] = sum(w / sum(weights) * v[b, h, j] for w, j in zip(weights, seen))
    return out


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("bias, causal, padded", list(itertools.product([True, False], repeat=3)))
def test_against_the_definition(backend, bias, causal, padded):
    q, k, v, rel_bias, lengths = random_inputs(2, 3, 4, 6, 5, torch.float64, bias=bias)
    arguments = dict(causal=causal, key_lengths=lengths if padded else None, query_offset=2 if causal else 0, scale=0.7)
    expected = by_loops(q, k, v, rel_bias, **arguments)
    assert torch.allclose(attention(q, k, v, rel_bias, backend=backend, **arguments), expected, atol=1e-12)


def test_bias_belongs_to_the_difference():
    assert toeplitz(torch.arange(10.0)[None], n_keys=4).shape == (1, 7, 4)
    matrix = toeplitz(torch.arange(-2, 4)[None], n_keys=4)[0]
    assert matrix.tolist() == [[j - i for j in range(4)] for i in range(3)]


@pytest.mark.parametrize("causal", [False, True])
def test_sdpa_equals_reference_with_gradients(causal):
    inputs = random_inputs(3, 2, 17, 17, 8, torch.float64)
    gradients = []
    for backend in ("reference", "sdpa"):
        q, k, v, rel_bias = (x.clone().requires_grad_() for x in inputs[:4])
        out = attention(q, k, v, rel_bias, causal=causal, key_lengths=inputs[4], backend=backend)
        gradients.append([out, *torch.autograd.grad((out * torch.arange(8.0)).sum(), (q, k, v, rel_bias))])
    for a, b in zip(*gradients):
        assert torch.allclose(a, b, atol=1e-11)


def test_no_row_is_nan_however_large_the_scores():
    q, k, v, rel_bias, _ = random_inputs(2, 2, 5, 9, 8)
    for backend in ("reference", "sdpa"):
        out = attention(1e4 * q, k, v, 1e4 * rel_bias, key_lengths=torch.tensor([1, 9]), backend=backend)
        assert out.isfinite().all()
        assert torch.allclose(out[0], v[0, :, :1].expand(2, 5, 8))  # one key: its value


@pytest.mark.parametrize("change, message", [
    (dict(q=torch.zeros(2, 3, 4)), "q is"),
    (dict(q=torch.zeros(2, 3, 4, 5, dtype=torch.int64)), "q is"),
    (dict(k=torch.zeros(2, 3, 6, 4)), r"k has shape .* expected \(2, 3, T, 5\)"),
    (dict(v=torch.zeros(2, 3, 5, 5)), "v has shape"),
    (dict(v=torch.zeros(2, 3, 6, 5, dtype=torch.float64)), "v is torch.float64"),
    (dict(rel_bias=torch.zeros(3, 10)), r"rel_bias .* \(3, 9\)"),
    (dict(key_lengths=torch.tensor([1])), "key_lengths"),
    (dict(key_lengths=torch.tensor([0, 6])), "from 0 to 6; expected 1 to 6"),
    (dict(key_lengths=torch.tensor([1, 7])), "from 1 to 7; expected 1 to 6"),
    (dict(key_lengths=torch.tensor([1.0, 2.0])), "key_lengths is torch.float32"),
    (dict(query_offset=-1), "query_offset"),
    (dict(backend="flash"), "backend"),
])
def test_refusals_name_the_argument(change, message):
    q, k, v, rel_bias, lengths = random_inputs(2, 3, 4, 6, 5)
    arguments = dict(q=q, k=k, v=v, rel_bias=rel_bias, key_lengths=lengths) | change
    with pytest.raises(ValueError, match=message):
        attention(**arguments)
