"""Attention with T5's learned relative position bias: one function, three backends.

Every mask is one *span* of keys per query, ``first ≤ j < last``, and neither end ever decreases
along the queries. Two integer vectors hold it, made once per batch and shared by all layers.

T5 adds a learned bias to the score of query i and key j, one per head and distance j − i. Distances
are clamped to ±reach, so each head has 2·reach + 1 of them.

Shapes here and in the kernels: B batch, H heads, Q queries, T keys, K head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Span = tuple[Tensor | None, Tensor | None]  # (first, last), each (B, Q) or (1, Q); None: 0, T


# --- spans of keys -------------------------------------------------------------------------------
def causal_span(n_queries: int, offset: int = 0, device: torch.device | None = None) -> Span:
    """Query i sees keys 0 … i + offset, where ``offset`` keys are cached."""
    place = torch.arange(1, n_queries + 1, dtype=torch.int32, device=device)
    return None, (place + offset)[None]


def block_span(ends: Tensor, query_lengths: Tensor | None = None) -> Span:
    """A token of block j sees blocks 0 … j; in cross-attention, a prefix of the source.

    Args:
        ends: (B, Q) integers, one past the last key each query sees.
        query_lengths: (B,) integers; later queries are padding and see nothing.
    """
    last = ends.to(torch.int32)
    if query_lengths is None:
        return None, last
    # Empty spans start at their end, so that ``first`` never decreases.
    padded = torch.arange(last.shape[1], device=last.device) >= query_lengths[:, None]
    return torch.where(padded, last, 0), last


def packed_span(starts: Tensor) -> Span:
    """Sequences packed into one row: a token sees its own, up to itself. ``starts``: (B, Q),
    the start of each token's sequence; Q for padding at the end of a row, which sees nothing.

    >>> first, last = packed_span(torch.tensor([[0, 0, 2, 2, 5]]))  # two, two, one of padding
    >>> first.tolist(), last.tolist()
    ([[0, 0, 2, 2, 5]], [[1, 2, 3, 4, 5]])
    """
    place = torch.arange(1, starts.shape[1] + 1, dtype=torch.int32, device=starts.device)
    return starts.to(torch.int32), place.expand(starts.shape)


# --- attention -----------------------------------------------------------------------------------
@dataclass
class Mask:
    """The keys each query sees and the bias of their scores; arguments as for ``attention``.

    Layers share one: it caches the dense mask for PyTorch's attention.
    """

    first: Tensor | None = None
    last: Tensor | None = None
    rel_bias: Tensor | None = None
    query_offset: int = 0
    _made_for: tuple | None = None
    _parts: tuple[Tensor | None, Tensor | None] = None, None  # what ``matrix`` returned

    def matrix(self, q: Tensor, n_keys: int) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the scores, broadcastable to (B, H, Q, T), and which queries see no key,
        booleans (B, Q) or (1, Q). None: nothing to add, no such query."""
        wanted = (q.dtype, q.shape[2], n_keys)
        if self._made_for != wanted:
            first, last = self.first, self.last
            added = empty = None
            if self.rel_bias is not None:
                bias = self.rel_bias.to(q.dtype)
                added = bias_matrix(bias, q.shape[2], n_keys, self.query_offset)[None]
            # Drop ends that mask nothing. On a GPU, checking would force a sync.
            may_look = not q.is_cuda and not torch.compiler.is_compiling()
            if may_look:
                first = None if first is None or not first.any() else first
                last = None if last is None or bool((last == n_keys).all()) else last
            seen = seen_keys(first, last, n_keys)
            if seen is not None:
                lowest = q.new_full((), torch.finfo(q.dtype).min)  # a row of −inf would become NaN
                hidden = torch.where(seen, q.new_zeros(()), lowest)
                added = hidden if added is None else hidden + added
                empty = ~seen.any(-1)[:, 0]
                empty = None if may_look and not empty.any() else empty
            self._made_for, self._parts = wanted, (added, empty)
        return self._parts


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None = None,
    *,
    first: Tensor | None = None,
    last: Tensor | None = None,
    query_offset: int = 0,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """softmax(scale · q kᵀ + bias) v, over the keys each query sees.

    Keys that no query sees may hold anything, even NaN, in ``reference`` and ``triton``; ``sdpa``
    multiplies them by zero. ``sdpa`` also rounds a float32 bias to q's dtype.

    Args:
        q: (B, H, Q, K).
        k, v: (B, H, T, K).
        rel_bias: (H, 2·reach + 1); entry clamp(j − i − query_offset, −reach, reach) + reach is
            added to the score of query i and key j.
        first, last: (B, Q) integers, or (1, Q) for all rows; non-decreasing along the queries, from
            0 to T. Query i of row b sees keys first[b, i] ≤ j < last[b, i]; by default, all. An
            empty span gives exactly zero and no gradient.
        query_offset: position of query 0 among the keys, for the bias.
        backend: ``reference`` is the definition, in any dtype; ``sdpa`` is PyTorch's; ``triton`` is
            the fused kernel, which never builds the score matrix; ``auto`` is triton for bfloat16
            on CUDA with compute capability 8.0 or higher and 16 ≤ K ≤ 128, if a first small case
            agrees with ``reference``; else sdpa.
    Raises:
        AssertionError: shapes that do not fit.
        RuntimeError: ``triton`` is not installed or cannot run here.
    """
    B, H, _, K = q.shape
    T = k.shape[2]
    assert k.shape == v.shape == (B, H, T, K), (q.shape, k.shape, v.shape)
    assert rel_bias is None or (rel_bias.shape[0] == H and rel_bias.shape[1] % 2), rel_bias.shape
    assert backend in ("auto", "reference", "sdpa", "triton"), backend
    if rel_bias is not None:  # beyond this, all keys are out of reach
        query_offset = min(query_offset, T + rel_bias.shape[1] // 2)
    return attend(q, k, v, Mask(first, last, rel_bias, query_offset), scale, backend)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, backend: str = "auto"
) -> Tensor:
    """``attention`` over a ``Mask``, which layers can share."""
    if backend == "triton" or (backend == "auto" and q.is_cuda):
        try:  # imported here because Triton is optional
            from ases.kernels.operator import supports, triton_attention
        except ImportError:
            if backend == "triton":
                raise RuntimeError("backend='triton' needs Triton: pip install triton") from None
        else:
            if backend == "triton" or supports(q):
                ends = mask.first, mask.last
                return triton_attention(q, k, v, mask.rel_bias, *ends, mask.query_offset, scale)
    if backend == "reference":
        return _reference(q, k, v, mask, scale)
    added, empty = mask.matrix(q, k.shape[2])
    if added is not None and added.requires_grad and not q.is_cuda:
        # PyTorch has no fused CPU kernel for a mask with a gradient: ``_dense`` is faster.
        out = _dense(q, k, v, added, scale)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)
    return out if empty is None else out.masked_fill(empty[:, None, :, None], 0)


def bias_matrix(rel_bias: Tensor, n_queries: int, n_keys: int, query_offset: int = 0) -> Tensor:
    """(H, 2·reach + 1) → (H, Q, T): entry [h, i, j] is for distance j − i − query_offset.

    >>> bias_matrix(torch.tensor([[-1, 0, 1]]), 2, 4).tolist()
    [[[0, 1, 1, 1], [-1, 0, 1, 1]]]
    """
    reach = rel_bias.shape[1] // 2
    lowest, highest = -(n_queries - 1) - query_offset, n_keys - 1 - query_offset
    along = rel_bias[:, max(lowest, -reach) + reach : max(highest + reach + 1, 0)]
    # Distances beyond the reach repeat the outermost entries.
    n_before = min(highest + 1, -reach) - lowest
    if n_before > 0:
        along = torch.cat([rel_bias[:, :1].expand(-1, n_before), along], 1)
    if highest > reach:
        along = torch.cat([along, rel_bias[:, -1:].expand(-1, highest - reach)], 1)
    # (H, Q + T − 1) → Q windows of T entries, the last query's first.
    return along.unfold(-1, n_keys, 1).flip(-2)


def seen_keys(first: Tensor | None, last: Tensor | None, n_keys: int) -> Tensor | None:
    """Which keys are seen: booleans (B, 1, Q, T) or (1, 1, Q, T); None: all."""
    if first is None and last is None:
        return None
    key = torch.arange(n_keys, device=(last if first is None else first).device)
    start = 0 if first is None else first[..., None]
    end = n_keys if last is None else last[..., None]
    return ((start <= key) & (key < end))[:, None]


def _reference(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """The definition, step by step."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    seen = seen_keys(mask.first, mask.last, n_keys)
    if seen is not None:
        # Zero queries without keys and keys without queries: they may hold NaN.
        q = q.masked_fill(~seen.any(-1)[..., None], 0)
        unseen = ~seen.any(-2)[..., None]
        k, v = k.masked_fill(unseen, 0), v.masked_fill(unseen, 0)
    scores = scale * (q @ k.transpose(-1, -2))  # (B, H, Q, T)
    if mask.rel_bias is not None:
        scores = scores + bias_matrix(mask.rel_bias, n_queries, n_keys, mask.query_offset)
    if seen is None:
        return torch.softmax(scores, -1).to(v.dtype) @ v
    lowest = torch.finfo(scores.dtype).min  # a row of −inf would become NaN
    weights = torch.softmax(scores.masked_fill(~seen, lowest), -1)
    return weights.masked_fill(~seen, 0).to(v.dtype) @ v


def _dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(mask + scale · q kᵀ) v, batched over rows and heads."""
    B, H, n_queries, _ = q.shape
    mask = mask.expand(B, H, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return (torch.softmax(scores, -1) @ v.flatten(0, 1)).unflatten(0, (B, H))
