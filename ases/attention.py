"""Attention with T5's learned relative position bias: one function, three ways to compute it.

Every mask of the method is the same thing: a query sees one *span* of keys, ``first ≤ j < last``,
and both ends only move right as the query does. Two vectors of integers say it all, made once per
batch and shared by all layers.

T5 adds to the score of query i and key j a learned number for the head and the distance j − i. All
distances beyond the farthest share one. A vector of 2·reach + 1 numbers per head holds them.

Shapes here and in the kernels: B batch, H heads, Q queries, T keys, K width of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Span = tuple[Tensor | None, Tensor | None]  # (first, last), each (B, Q) or (1, Q); None: 0, T
BACKENDS = ("auto", "reference", "sdpa", "triton")


# --- spans of keys -------------------------------------------------------------------------------
def causal_span(n_queries: int, offset: int = 0, device: torch.device | None = None) -> Span:
    """Query i sees the keys up to its own place, i + offset: so many stand in a decoder's cache."""
    place = torch.arange(1, n_queries + 1, dtype=torch.int32, device=device)
    return None, (place + offset)[None]


def block_span(ends: Tensor, query_lengths: Tensor | None = None) -> Span:
    """A token of block j sees blocks 0 … j. Or, in cross-attention, a prefix of the source.

    Args:
        ends: (B, Q) integers; for each query the place behind the last key it sees.
        query_lengths: (B,) integers; queries from there on are padding and see nothing.
    """
    last = ends.to(torch.int32)
    if query_lengths is None:
        return None, last
    # An empty span begins where it ends, and so still moves right.
    padded = torch.arange(last.shape[1], device=last.device) >= query_lengths[:, None]
    return torch.where(padded, last, 0), last


def packed_span(starts: Tensor) -> Span:
    """Several sequences in one row: a token sees its own, up to itself. ``starts``: (B, Q), where
    each token's sequence starts; Q for padding at the end of a row, which sees nothing.

    >>> first, last = packed_span(torch.tensor([[0, 0, 2, 2, 5]]))  # two, two, one of padding
    >>> first.tolist(), last.tolist()
    ([[0, 0, 2, 2, 5]], [[1, 2, 3, 4, 5]])
    """
    place = torch.arange(1, starts.shape[1] + 1, dtype=torch.int32, device=starts.device)
    return starts.to(torch.int32), place.expand(starts.shape)


# --- attention -----------------------------------------------------------------------------------
class Mask:
    """Which keys queries see, and the bias of their scores: arguments as for ``attention``.

    Layers share one, since it keeps the dense matrix for PyTorch's attention once that is made.
    """

    def __init__(
        self,
        first: Tensor | None = None,
        last: Tensor | None = None,
        rel_bias: Tensor | None = None,
        query_offset: int = 0,
    ):
        self.first, self.last = first, last
        self.rel_bias, self.query_offset = rel_bias, query_offset
        self._parts: tuple[Tensor | None, Tensor | None] | None = None

    def matrix(self, q: Tensor, n_keys: int) -> tuple[Tensor | None, Tensor | None]:
        """What to add to the scores, (B, H, Q, T) or 1 where all agree; and which queries see no
        key, booleans (B, Q). None where there is nothing to add, or no such query."""
        if self._parts is None:
            first, last = self.first, self.last
            added = empty = None
            if self.rel_bias is not None:
                bias = self.rel_bias.to(q.dtype)
                added = bias_matrix(bias, q.shape[2], n_keys, self.query_offset)[None]
            # Drop ends that mask nothing; on a GPU looking would mean waiting.
            looking_is_free = not q.is_cuda and not torch.compiler.is_compiling()
            if looking_is_free:
                first = None if first is None or not first.any() else first
                last = None if last is None or bool((last == n_keys).all()) else last
            seen = seen_keys(first, last, n_keys)
            if seen is not None:
                lowest = q.new_full((), torch.finfo(q.dtype).min)  # finite: no row can become NaN
                hidden = torch.where(seen, q.new_zeros(()), lowest)
                added = hidden if added is None else hidden + added
                start, end = 0 if first is None else first, n_keys if last is None else last
                empty = torch.as_tensor(start >= end)
                empty = None if looking_is_free and not empty.any() else empty
            self._parts = added, empty
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
    """softmax(scale · q kᵀ + bias) v, over the keys that each query sees.

    Keys that nobody sees may hold anything, even NaN, in ``reference`` and ``triton``; ``sdpa``
    multiplies them by zero. ``sdpa`` also rounds a float32 bias to the dtype of the queries.

    Args:
        q: (B, H, Q, K).
        k, v: (B, H, T, K).
        rel_bias: (H, 2·reach + 1); entry clamp(j − i − query_offset, −reach, reach) + reach is
            added to the score of query i and key j.
        first, last: (B, Q) integers, non-decreasing along the queries; (1, Q) for all rows alike.
            Query i of row b sees the keys first[b, i] ≤ j < last[b, i]; by default, all. An empty
            span gives exactly zero and no gradient. Values are checked on the CPU only.
        query_offset: position of query 0 among the keys, for the bias.
        backend: ``reference`` is the definition, in any dtype; ``sdpa`` is PyTorch's; ``triton`` is
            the fused kernel, which never builds a matrix of scores; ``auto`` is triton for bfloat16
            on CUDA from compute capability 8.0 on, else sdpa.
    Raises:
        ValueError: an invalid argument.
        RuntimeError: ``triton`` is not installed or cannot run here.
    """
    _check(q, k, v, rel_bias, query_offset, backend)
    n_keys = k.shape[2]
    first, last = _checked("first", first, q, n_keys), _checked("last", last, q, n_keys)
    if rel_bias is not None:  # farther off, nothing changes: all keys lie beyond the reach
        query_offset = min(query_offset, n_keys + rel_bias.shape[1] // 2)
    return attend(q, k, v, Mask(first, last, rel_bias, query_offset), scale, backend)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float, backend: str = "auto"
) -> Tensor:
    """``attention`` without its checks."""
    if backend == "triton" or (backend == "auto" and q.is_cuda):
        try:  # here, for Triton is not installed everywhere
            from ases.kernels.operator import supports, triton_attention
        except ImportError:
            if backend == "triton":
                raise RuntimeError("backend='triton' needs it: pip install triton") from None
        else:
            if backend == "triton" or supports(q):
                ends = mask.first, mask.last
                return triton_attention(q, k, v, mask.rel_bias, *ends, mask.query_offset, scale)
    if backend == "reference":
        return _reference(q, k, v, mask, scale)
    added, empty = mask.matrix(q, k.shape[2])
    if added is not None and added.requires_grad and not q.is_cuda:
        # PyTorch has no fused kernel for this, and is slower.
        out = _dense(q, k, v, added, scale)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)
    return out if empty is None else out.masked_fill(empty[:, None, :, None], 0)


def bias_matrix(rel_bias: Tensor, n_queries: int, n_keys: int, query_offset: int = 0) -> Tensor:
    """(H, 2·reach + 1) → (H, Q, T): entry [h, i, j] is that of the difference j − i − query_offset.

    >>> bias_matrix(torch.tensor([[-1, 0, 1]]), 2, 4).tolist()
    [[[0, 1, 1, 1], [-1, 0, 1, 1]]]
    """
    reach = rel_bias.shape[1] // 2
    lowest, highest = -(n_queries - 1) - query_offset, n_keys - 1 - query_offset
    along = rel_bias[:, max(lowest, -reach) + reach : max(highest + reach + 1, 0)]
    # What lies beyond the reach repeats the outermost entries.
    n_before = min(highest + 1, -reach) - lowest
    if n_before > 0:
        along = torch.cat([rel_bias[:, :1].expand(-1, n_before), along], 1)
    if highest > reach:
        along = torch.cat([along, rel_bias[:, -1:].expand(-1, highest - reach)], 1)
    # (H, Q + T − 1) → Q windows of T entries, the last one first.
    return along.unfold(-1, n_keys, 1).flip(-2)


def seen_keys(first: Tensor | None, last: Tensor | None, n_keys: int) -> Tensor | None:
    """Which keys are seen, booleans (B, 1, Q, T), or of size 1 where rows or queries agree."""
    seen = None
    for end, is_first in ((first, True), (last, False)):
        if end is None:
            continue
        if end.stride(1) == 0:
            end = end[:, :1]
        key = torch.arange(n_keys, dtype=end.dtype, device=end.device)
        inside = key >= end[..., None] if is_first else key < end[..., None]
        seen = inside if seen is None else seen & inside
    return None if seen is None else seen[:, None]


def _reference(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """The definition, step by step."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    seen = seen_keys(mask.first, mask.last, n_keys)
    if seen is not None:
        # Queries without keys and keys without queries must not count, whatever they hold.
        seen = seen.expand(-1, -1, n_queries, -1)
        q = q.masked_fill(~seen.any(-1)[..., None], 0)
        unseen = ~seen.any(-2)[..., None]
        k, v = k.masked_fill(unseen, 0), v.masked_fill(unseen, 0)
    scores = scale * (q @ k.transpose(-1, -2))  # (B, H, Q, T)
    if mask.rel_bias is not None:
        scores = scores + bias_matrix(mask.rel_bias, n_queries, n_keys, mask.query_offset)
    if seen is None:
        return torch.softmax(scores, -1).to(v.dtype) @ v
    lowest = torch.finfo(scores.dtype).min  # finite: no row can become NaN
    weights = torch.softmax(scores.masked_fill(~seen, lowest), -1)
    return weights.masked_fill(~seen, 0).to(v.dtype) @ v


def _dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(mask + scale · q kᵀ) v, with the heads of all rows as one batch of matrices."""
    B, H, n_queries, _ = q.shape
    mask = mask.expand(B, H, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(mask, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return (torch.softmax(scores, -1) @ v.flatten(0, 1)).unflatten(0, (B, H))


# --- arguments -----------------------------------------------------------------------------------
def _check(
    q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, query_offset: int, backend: str
) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    if query_offset < 0:
        raise ValueError(f"query_offset is {query_offset}; expected 0 or more")
    if q.dim() != 4 or not q.is_floating_point() or 0 in q.shape:
        raise ValueError(f"q is {_kind(q)}; expected floating point (B, H, Q, K), none of them 0")
    B, H, _, K = q.shape
    if k.dim() != 4 or k.shape[:2] != (B, H) or k.shape[3] != K or k.shape[2] == 0:
        raise ValueError(f"k has shape {tuple(k.shape)}; expected ({B}, {H}, T, {K}) with T > 0")
    if v.shape != k.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}; expected k's shape {tuple(k.shape)}")
    for name, tensor in (("k", k), ("v", v)):
        if (tensor.dtype, tensor.device) != (q.dtype, q.device):
            found = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} is {found}; expected {q.dtype} on {q.device}, as q")
    if rel_bias is not None:
        fits = rel_bias.dim() == 2 and rel_bias.shape[0] == H and rel_bias.shape[1] % 2 == 1
        if not fits or not rel_bias.is_floating_point() or rel_bias.device != q.device:
            wanted = f"floating point of shape ({H}, 2 * reach + 1) on {q.device}"
            raise ValueError(f"rel_bias is {_kind(rel_bias)}; expected {wanted}")


def _checked(name: str, end: Tensor | None, q: Tensor, n_keys: int) -> Tensor | None:
    """One end of the spans; its values are looked at where that is free."""
    if end is None:
        return None
    B, _, n_queries, _ = q.shape
    integers = not end.is_floating_point() and not end.is_complex() and end.dtype != torch.bool
    shapes = ((1, n_queries), (B, n_queries))
    if not integers or tuple(end.shape) not in shapes or end.device != q.device:
        wanted = f"integers of shape ({B}, {n_queries}) or (1, {n_queries}) on {q.device}"
        raise ValueError(f"{name} is {_kind(end)}; expected {wanted}")
    if end.device.type != "cpu" or torch.compiler.is_compiling():
        return end

    end = end if end.dtype == torch.int64 else end.to(torch.int32)
    # An expanded tensor repeats one column: that one is enough.
    column = end[:, :1] if end.stride(1) == 0 else end
    outside = (column < 0) | (column > n_keys)
    falls = column[:, 1:] < column[:, :-1]
    for wrong, shift, wanted in (
        (outside, 0, f"0 to {n_keys}, the number of keys"),
        (falls, 1, "no decrease along the queries"),
    ):
        if wrong.any():
            row, query = wrong.nonzero()[0].tolist()
            query += shift
            found = f"{name}[{row}, {query}] is {int(end[row, query])}"
            raise ValueError(f"{found}; expected {wanted}")
    return end


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
