"""Attention with T5's learned relative position bias: one function, three ways to compute it.

T5 adds to the score of query i and key j a learned number that depends on the head and on j − i
alone. As a matrix that is Toeplitz, so a vector over the Q + T − 1 differences says it all:
``rel_bias[h, j − i + Q − 1]``. Padding is a length for each row and causality a comparison of
positions, so no mask needs to be handed over either.

Shapes: B batch, H heads, Q queries, T keys, K width of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = ("auto", "reference", "sdpa", "triton")


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None = None,
    *,
    causal: bool = False,
    key_lengths: Tensor | None = None,
    query_offset: int = 0,
    scale: float = 1.0,
    backend: str = "auto",
    bias_span: int | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ + bias) v, over the keys that a query may see.

    Args:
        q: (B, H, Q, K).
        k, v: (B, H, T, K), of q's dtype and device.
        rel_bias: (H, Q + T − 1); entry j − i + Q − 1 is added to the score of query i and key j.
        causal: query i sees the keys j ≤ i + query_offset.
        key_lengths: (B,) integers from 1 to T; row b sees its first key_lengths[b] keys. On a GPU
            they are not looked at, which would wait for it, but brought into that range.
        query_offset: position of query 0 among the keys, for causality (the keys cached before it).
        scale: factor of the scores; T5 has none (1.0).
        backend: ``reference`` is the definition, in any dtype; ``sdpa`` is PyTorch's; ``triton`` is
            the fused kernel, which never builds a matrix of scores; ``auto`` is triton for bfloat16
            on CUDA, else sdpa.
        bias_span: a promise that all keys this far from a query or farther share one bias on each
            side, |j − i − query_offset| ≥ bias_span, as T5's do from its maximum distance on.
            Triton then does less; the gradient of rel_bias beyond the span is right in sum on each
            side, not entry by entry.
    Returns:
        (B, H, Q, K), of q's dtype.
    Raises:
        ValueError: an argument of a wrong shape, dtype, device or range, named.
        RuntimeError: ``triton`` asked for where it is not installed or cannot run.
    """
    _check(q, k, v, rel_bias, causal, key_lengths, query_offset, backend, bias_span)
    if key_lengths is not None and key_lengths.device.type != "cpu":
        key_lengths = key_lengths.clamp(1, k.shape[2])
    if backend == "auto":
        backend = "triton" if _triton_applies(q) else "sdpa"
    if backend == "triton":
        try:  # here, for Triton is not installed everywhere
            from ases.kernels.attention import triton_attention
        except ImportError:
            raise RuntimeError(
                "backend='triton' needs the package triton: pip install triton"
            ) from None
        return triton_attention(
            q, k, v, rel_bias, causal, key_lengths, query_offset, scale, bias_span
        )
    bias = _score_bias(q, k, rel_bias, causal, key_lengths, query_offset)
    if backend == "sdpa":
        return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    scores = scale * (q @ k.transpose(-1, -2))  # (B, H, Q, T)
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, dim=-1) @ v


def toeplitz(rel_bias: Tensor, n_keys: int) -> Tensor:
    """(H, Q + T − 1) → (H, Q, T): entry [h, i, j] is rel_bias[h, j − i + Q − 1].

    >>> toeplitz(torch.tensor([[-1, 0, 1, 2]]), 3).tolist()
    [[[0, 1, 2], [-1, 0, 1]]]
    """
    return rel_bias.unfold(-1, n_keys, 1).flip(-2)  # Q windows of T entries, the last one first


def _score_bias(
    q: Tensor,
    k: Tensor,
    rel_bias: Tensor | None,
    causal: bool,
    key_lengths: Tensor | None,
    query_offset: int,
) -> Tensor | None:
    """What is added to the scores: the bias, and a lowest number where a key is not seen."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    bias = None if rel_bias is None else toeplitz(rel_bias, n_keys).to(q.dtype)[None]
    hidden = None  # broadcasts to (B, 1, Q, T)
    key = torch.arange(n_keys, device=q.device)
    if key_lengths is not None:
        hidden = (key >= key_lengths[:, None])[:, None, None, :]
    if causal:
        query = torch.arange(n_queries, device=q.device) + query_offset
        future = key > query[:, None]  # (Q, T)
        hidden = future[None, None] if hidden is None else hidden | future
    if hidden is None:
        return bias
    lowest = torch.finfo(q.dtype).min  # finite: no row can become NaN
    if bias is None:
        return torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, lowest)
    return bias.masked_fill(hidden, lowest)


def _check(q, k, v, rel_bias, causal, key_lengths, query_offset, backend, bias_span) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    if query_offset < 0:
        raise ValueError(f"query_offset is {query_offset}; expected 0 or more")
    if bias_span is not None and bias_span < 1:
        raise ValueError(f"bias_span is {bias_span}; expected 1 or more, or None")
    if q.dim() != 4 or not q.is_floating_point() or 0 in q.shape:
        raise ValueError(f"q is {_kind(q)}; expected floating point (B, H, Q, K), none of them 0")
    B, H, Q, K = q.shape
    if k.dim() != 4 or k.shape[:2] != (B, H) or k.shape[3] != K or k.shape[2] == 0:
        raise ValueError(f"k has shape {tuple(k.shape)}; expected ({B}, {H}, T, {K}) with T > 0")
    T = k.shape[2]
    if v.shape != k.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}; expected k's shape {tuple(k.shape)}")
    if rel_bias is not None:
        if rel_bias.shape != (H, Q + T - 1) or not rel_bias.is_floating_point():
            raise ValueError(
                f"rel_bias is {_kind(rel_bias)}; "
                f"expected floating point ({H}, {Q + T - 1}), that is (H, Q + T - 1)"
            )
    for name, tensor in (("k", k), ("v", v), ("rel_bias", rel_bias), ("key_lengths", key_lengths)):
        if tensor is not None and tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}; expected q's device {q.device}")
        if name in "kv" and tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}; expected q's dtype {q.dtype}")
    if key_lengths is not None:
        _check_lengths(key_lengths, B, T)


def _check_lengths(lengths: Tensor, B: int, T: int) -> None:
    integers = not lengths.is_floating_point() and lengths.dtype != torch.bool
    if lengths.shape != (B,) or not integers:
        raise ValueError(f"key_lengths is {_kind(lengths)}; expected integers of shape ({B},)")
    # Their values are looked at where that is free: a GPU would be waited for.
    if lengths.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not bool(((lengths >= 1) & (lengths <= T)).all()):
        found = f"from {int(lengths.min())} to {int(lengths.max())}"
        raise ValueError(f"key_lengths runs {found}; expected 1 to {T}")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _triton_applies(q: Tensor) -> bool:
    if not q.is_cuda:
        return False
    try:
        from ases.kernels.attention import supports
    except ImportError:
        return False
    return supports(q)
