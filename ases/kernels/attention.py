"""Fused attention over key spans with a relative position bias, forward and backward, in Triton.

The score matrix never exists. A program owns one block of queries (or, for the key and value
gradients, of keys) and loops over blocks of the other side. Below, i is a query, j a key,
s_ij = scale · q_i·k_j + b_{j−i}, −∞ where i does not see j.

**Forward: online softmax.** The output is o_i = Σ_j e^{s_ij} v_j / Σ_j e^{s_ij}. Take the keys
block by block. For the keys so far, keep the largest score m, the sum l = Σ e^{s − m} and the
output a = Σ e^{s − m} v. A new block with largest score m' moves the reference to n = max(m, m'):
multiply l and a by e^{m − n}, then add the block's terms. At the end o = a / l. The backward pass
needs p_ij = e^{s_ij − m_i} / l_i, so store m and 1 / l. (m + ln l alone would lose the digits of
the logarithm when scores are large.) Powers have base 2: scale and bias include log₂ e.

**Backward.** Given dO, dP_ij = dO_i·v_j. From o = Σ_j p_ij v_j and p = softmax(s):

    dV_j = Σ_i p_ij dO_i
    dS_ij = p_ij (dP_ij − D_i),   D_i = Σ_j p_ij dP_ij = dO_i·o_i
    dQ_i = scale Σ_j dS_ij k_j,   dK_j = scale Σ_i dS_ij q_i
    db_d = Σ_{j − i = d} dS_ij

D_i = dO_i·o_i takes one dot product per row. But o is rounded, and where the softmax is nearly
one-hot, dP − D is nothing but rounding error. In bfloat16 other errors dominate; float32 sums
p_ij dP_ij in an extra pass over the keys instead.

**The mirror.** Query i sees keys first_i ≤ j < last_i, and both ends only grow with i. So the
queries that see key j are a span too, from the first with last_i > j to the last with first_i ≤ j,
and its ends only grow with j. The key gradient is therefore the query gradient with roles swapped:
same loop, same masks, dual spans, bias read backwards (SIGN = −1).

**The bias gradient** sums dS along diagonals. Rotating row r of a tile by r turns diagonals into
columns. A tile is twice as high as wide, so entries wrap zero, one or two times: column sums by
wrap count give three groups of diagonals, each as wide as the tile. The next tile lies one width
to the right, so carry the upper groups to it. Each program writes each difference once. No
atomics: the result is deterministic.
"""

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))

# Triton reads this when it defines a kernel; later changes have no effect.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
# These change at every decoding step: specialising on them would recompile the kernels.
_VARYING = ["n_queries", "n_keys", "offset", "reach"]


class Rows(NamedTuple):
    """A tensor (B, H, n, K) and its strides; the last stride is 1."""

    pointer: Tensor
    batch: int
    head: int
    row: int


class SpanEnds(NamedTuple):
    """Both ends of the spans, each (B, n), and their strides."""

    first: Tensor
    first_batch: int
    first_row: int
    last: Tensor
    last_batch: int
    last_row: int


class Stats(NamedTuple):
    """Per query, (B, H, Q) float32: largest score m, reciprocal 1 / l, and D."""

    largest: Tensor
    reciprocal: Tensor
    delta: Tensor


class Bias(NamedTuple):
    """The padded bias (H, width) times log₂ e; ``centre`` is the column of difference 0."""

    pointer: Tensor
    width: int
    centre: int


# --- shared by all kernels -----------------------------------------------------------------------
@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    if INTERPRETED:  # the interpreter cannot multiply bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _product(own, other, MIRRORED: tl.constexpr, PRECISION: tl.constexpr):
    """own · otherᵀ. In float32 the mirror repeats the query kernel's sums, so errors cancel."""
    if MIRRORED and PRECISION == "ieee":
        return tl.trans(_dot(other, tl.trans(own), PRECISION))
    return _dot(own, tl.trans(other), PRECISION)


@triton.jit
def _program(n, heads, BLOCK: tl.constexpr, LAST_FIRST: tl.constexpr):
    """The block's first row, batch row and head. Blocks vary fastest: neighbours share keys.

    Longest work first: with causal spans, late queries see most keys, early keys most queries.
    """
    n_blocks = tl.cdiv(n, BLOCK)
    block = tl.program_id(0) % n_blocks
    if LAST_FIRST:
        block = n_blocks - 1 - block
    b_h = (tl.program_id(0) // n_blocks).to(tl.int64)
    return block * BLOCK, b_h // heads, b_h % heads


@triton.jit
def _base(rows, b, h):
    """Pointer to the matrix of a batch row and head, and its row stride."""
    return rows.pointer + b * rows.batch + h * rows.head, rows.row


@triton.jit
def _load(matrix, start, inside, BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr):
    """Rows start … start + BLOCK of a matrix; zero where not ``inside``, even over NaN."""
    pointer, stride = matrix
    r, c = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_K)[None, :]
    mask = inside[:, None]
    if WIDTH < BLOCK_K:
        mask = mask & (c < WIDTH)
    here = pointer + tl.cast(start, tl.int64) * stride
    return tl.load(here + (r * stride + c), mask=mask, other=0.0)


@triton.jit
def _store(matrix, start, n, x, BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr):
    pointer, stride = matrix
    r, c = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_K)[None, :]
    here = pointer + tl.cast(start, tl.int64) * stride
    x = x.to(pointer.dtype.element_ty)
    tl.store(here + r * stride + c, x, mask=(start + r < n) & (c < WIDTH))


@triton.jit
def _walk(
    spans, b, start, n, n_others, shift, reach,
    HAS_BIAS: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The part of the other side that a block of rows loops over.

    Returns:
        own: (positions, first, last) of the block's rows.
        bounds: (low, high, inner, outer). No row sees beyond low … high. All rows see all of
            inner … outer: tiles in it need no mask.
        stops: start of the loop, both ends of the band, end of the loop. Tiles before and after
            the band lie beyond the reach.
    """
    at = start + tl.arange(0, BLOCK)
    # Spans, clamped to 0 … n_others; rows beyond n see nothing.
    first, last = tl.zeros_like(at), tl.where(at < n, n_others, 0)
    if HAS_FIRST:
        place = spans.first + b * spans.first_batch + at * spans.first_row
        first = tl.maximum(tl.load(place, mask=at < n, other=0).to(tl.int32), 0)
    if HAS_LAST:
        place = spans.last + b * spans.last_batch + at * spans.last_row
        last = tl.minimum(tl.load(place, mask=at < n, other=0).to(tl.int32), n_others)
    # Rows that see nothing must not widen the loop.
    low = tl.min(tl.where(first < last, first, n_others), 0)
    high = tl.max(tl.where(first < last, last, 0), 0)
    inner = tl.max(first, 0)
    outer = tl.min(tl.where(at < n, last, n_others), 0)
    begin = low // STEP * STEP
    left, right = high, high
    if HAS_BIAS:
        whole = tl.cdiv(high, STEP) * STEP
        left = tl.maximum(start + shift - reach + 1, 0) // STEP * STEP
        left = tl.maximum(tl.minimum(left, whole), begin)
        right = tl.cdiv(tl.maximum(start + BLOCK - 1 + shift + reach, 0), STEP) * STEP
        right = tl.maximum(tl.minimum(right, whole), left)
    return (at, first, last), (low, high, inner, outer), (begin, left, right, high)


@triton.jit
def _others(start, bounds, STEP: tl.constexpr):
    """Positions of a tile's other rows, which of them to load, whether the tile needs a mask."""
    low, high, inner, outer = bounds
    others = start + tl.arange(0, STEP)
    used = (others >= low) & (others < high)
    return others, used, (start < inner) | (start + STEP > outer)


@triton.jit
def _scores(
    own, other, block, others, masked, scale, bias, far,
    SIGN: tl.constexpr, HAS_BIAS: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of log₂ e · s, (own rows, other rows), −∞ where masked."""
    at, first, last = block
    s = _product(own, other, SIGN < 0, PRECISION) * scale
    if HAS_BIAS:
        if NEAR:
            # The padding covers every difference in a band tile: no mask, no clamp.
            s += tl.load(bias + SIGN * (others[None, :] - at[:, None]))
        else:
            s += far
    if masked:
        seen = (others[None, :] >= first[:, None]) & (others[None, :] < last[:, None])
        s = tl.where(seen, s, float("-inf"))
    return s


# --- forward -------------------------------------------------------------------------------------
@triton.jit(do_not_specialize=_VARYING)
def forward_kernel(
    q, k, v, bias, spans, out, stats,
    heads, n_queries, n_keys, offset, reach, scale,
    HAS_BIAS: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    m0, b, h = _program(n_queries, heads, BLOCK, True)
    own, bounds, stops = _walk(
        spans, b, m0, n_queries, n_keys, offset, reach, HAS_BIAS, HAS_FIRST, HAS_LAST, BLOCK, STEP
    )
    at, first, last = own
    q_own = _load(_base(q, b, h), m0, first < last, BLOCK, WIDTH, BLOCK_K)
    keys, values = _base(k, b, h), _base(v, b, h)
    zero = bias.pointer + h * bias.width + bias.centre

    a = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    l = tl.zeros([BLOCK], tl.float32)
    m = tl.full([BLOCK], float("-inf"), tl.float32)
    # Before, in and after the band; one loop without a bias.
    for part in tl.static_range(3 if HAS_BIAS else 1):
        far = tl.load(zero + (part - 1) * reach)
        for n0 in range(stops[part], stops[part + 1], STEP):
            others, used, masked = _others(n0, bounds, STEP)
            k_n = _load(keys, n0, used, STEP, WIDTH, BLOCK_K)
            v_n = _load(values, n0, used, STEP, WIDTH, BLOCK_K)
            s = _scores(
                q_own, k_n, own, others, masked, scale, zero - offset, far,
                1, HAS_BIAS, part == 1, PRECISION,
            )  # fmt: skip

            n = tl.maximum(m, tl.max(s, 1))
            # n is −∞ while a query has seen nothing; any finite reference makes its powers 0.
            reference = tl.where(n == float("-inf"), 0.0, n)
            p = tl.exp2(s - reference[:, None])
            shrink = tl.exp2(m - reference)
            l = l * shrink + tl.sum(p, 1)
            a = a * shrink[:, None] + _dot(p.to(v_n.dtype), v_n, PRECISION)
            m = n

    r = tl.where(l > 0, 1.0 / tl.where(l > 0, l, 1.0), 0.0)
    _store(_base(out, b, h), m0, n_queries, a * r[:, None], BLOCK, WIDTH, BLOCK_K)
    place = (b * heads + h) * n_queries + at
    # +∞ for a query that sees nothing: the backward pass gets p = 0.
    tl.store(stats.largest + place, tl.where(l > 0, m, float("inf")), mask=at < n_queries)
    tl.store(stats.reciprocal + place, r, mask=at < n_queries)


# --- backward: queries and bias ------------------------------------------------------------------
@triton.jit
def _diagonals(ds, BLOCK: tl.constexpr, STEP: tl.constexpr):
    """Sums of a tile (2·STEP, STEP) along diagonals e − 2·STEP, e − STEP and e, e < STEP."""
    r, e = tl.arange(0, BLOCK)[:, None], tl.arange(0, STEP)[None, :]
    rotated = tl.gather(ds, (e + r) % STEP, 1)
    wraps = (e + r) // STEP
    low = tl.sum(tl.where(wraps == 2, rotated, 0.0), 0)
    middle = tl.sum(tl.where(wraps == 1, rotated, 0.0), 0)
    return low, middle, tl.sum(tl.where(wraps == 0, rotated, 0.0), 0)


@triton.jit
def _row_sums(
    q, do, m, r, block, bounds, stops, keys, values, scale, zero, offset, reach,
    HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """D = Σ p·dP over the same tiles as below; float32 needs it in place of dO·o."""
    at = block[0]
    delta = tl.zeros([BLOCK], tl.float32)
    for n0 in range(stops[0], stops[3], STEP):
        others, used, _ = _others(n0, bounds, STEP)
        k = _load(keys, n0, used, STEP, WIDTH, BLOCK_K)
        v = _load(values, n0, used, STEP, WIDTH, BLOCK_K)
        s = _scores(q, k, block, others, True, scale, zero, 0.0, 1, False, False, "ieee")
        if HAS_BIAS:
            difference = others[None, :] - at[:, None] - offset
            s += tl.load(zero + tl.minimum(tl.maximum(difference, -reach), reach))
        p = tl.exp2(s - m[:, None]) * r[:, None]
        delta += tl.sum(p * _dot(do, tl.trans(v), "ieee"), 1)
    return delta


@triton.jit(do_not_specialize=_VARYING)
def query_gradient_kernel(
    q, k, v, do, out, dq, bias, spans, stats, band_ptr,
    heads, n_queries, n_keys, offset, reach, scale,
    HAS_BIAS: tl.constexpr, GRADIENT: tl.constexpr, HAS_FIRST: tl.constexpr,
    HAS_LAST: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    STEP: tl.constexpr = BLOCK // 2  # see _diagonals
    m0, b, h = _program(n_queries, heads, BLOCK, True)
    own, bounds, stops = _walk(
        spans, b, m0, n_queries, n_keys, offset, reach, HAS_BIAS, HAS_FIRST, HAS_LAST, BLOCK, STEP
    )
    at, first, last = own
    q_own = _load(_base(q, b, h), m0, first < last, BLOCK, WIDTH, BLOCK_K)
    do_own = _load(_base(do, b, h), m0, first < last, BLOCK, WIDTH, BLOCK_K)
    keys, values = _base(k, b, h), _base(v, b, h)
    place = (b * heads + h) * n_queries + at
    m = tl.load(stats.largest + place, mask=at < n_queries, other=float("inf"))
    r = tl.load(stats.reciprocal + place, mask=at < n_queries, other=0.0)
    zero = bias.pointer + h * bias.width + bias.centre

    if PRECISION == "ieee":
        delta = _row_sums(
            q_own, do_own, m, r, own, bounds, stops, keys, values, scale, zero, offset, reach,
            HAS_BIAS, BLOCK, STEP, WIDTH, BLOCK_K,
        )  # fmt: skip
    else:
        o = _load(_base(out, b, h), m0, first < last, BLOCK, WIDTH, BLOCK_K)
        delta = tl.sum(do_own.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(stats.delta + place, delta, mask=at < n_queries)  # for key_gradient_kernel

    # This program's sums of dS: the band, and the rest at the two ends of the row.
    sums = band_ptr + tl.program_id(0).to(tl.int64) * bias.width
    band = sums + bias.centre - offset - m0
    e = tl.arange(0, STEP)
    dq_own = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    for part in tl.static_range(3 if HAS_BIAS else 1):
        far = tl.load(zero + (part - 1) * reach)
        carry, next_carry = tl.zeros([STEP], tl.float32), tl.zeros([STEP], tl.float32)
        rest = tl.zeros([BLOCK], tl.float32)
        for n0 in range(stops[part], stops[part + 1], STEP):
            others, used, masked = _others(n0, bounds, STEP)
            k_n = _load(keys, n0, used, STEP, WIDTH, BLOCK_K)
            v_n = _load(values, n0, used, STEP, WIDTH, BLOCK_K)
            s = _scores(
                q_own, k_n, own, others, masked, scale, zero - offset, far,
                1, HAS_BIAS, part == 1, PRECISION,
            )  # fmt: skip
            p = tl.exp2(s - m[:, None]) * r[:, None]
            ds = p * (_dot(do_own, tl.trans(v_n), PRECISION) - delta[:, None])
            dq_own += _dot(ds.to(k_n.dtype), k_n, PRECISION)
            if GRADIENT:
                if part == 1:
                    lower, middle, upper = _diagonals(ds, BLOCK, STEP)
                    tl.store(band + n0 - BLOCK + e, lower + carry)
                    carry, next_carry = middle + next_carry, upper
                else:
                    rest += tl.sum(ds, 1)
        if GRADIENT:
            if part != 1:
                tl.store(sums + (bias.width - 1) * (part // 2), tl.sum(rest, 0))
            elif stops[1] < stops[2]:
                tl.store(band + stops[2] - BLOCK + e, carry)
                tl.store(band + stops[2] - STEP + e, next_carry)
    _store(_base(dq, b, h), m0, n_queries, dq_own * (scale * LN_2), BLOCK, WIDTH, BLOCK_K)


# --- backward: keys and values -------------------------------------------------------------------
@triton.jit(do_not_specialize=_VARYING)
def key_gradient_kernel(
    q, k, v, do, dk, dv, bias, spans, stats,
    heads, n_queries, n_keys, offset, reach, scale,
    HAS_BIAS: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    n0, b, h = _program(n_keys, heads, BLOCK, False)
    own, bounds, stops = _walk(
        spans, b, n0, n_keys, n_queries, -offset, reach, HAS_BIAS, HAS_FIRST, HAS_LAST, BLOCK, STEP
    )
    _, first, last = own
    k_own = _load(_base(k, b, h), n0, first < last, BLOCK, WIDTH, BLOCK_K)
    v_own = _load(_base(v, b, h), n0, first < last, BLOCK, WIDTH, BLOCK_K)
    queries, output_gradients = _base(q, b, h), _base(do, b, h)
    row = (b * heads + h) * n_queries
    zero = bias.pointer + h * bias.width + bias.centre

    dk_own = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    dv_own = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    for part in tl.static_range(3 if HAS_BIAS else 1):
        # Queries far to the left see this key far to their right.
        far = tl.load(zero + (1 - part) * reach)
        for m0 in range(stops[part], stops[part + 1], STEP):
            others, used, masked = _others(m0, bounds, STEP)
            q_m = _load(queries, m0, used, STEP, WIDTH, BLOCK_K)
            do_m = _load(output_gradients, m0, used, STEP, WIDTH, BLOCK_K)
            m = tl.load(stats.largest + row + others, mask=used, other=float("inf"))
            r = tl.load(stats.reciprocal + row + others, mask=used, other=0.0)
            delta = tl.load(stats.delta + row + others, mask=used, other=0.0)
            s = _scores(
                k_own, q_m, own, others, masked, scale, zero - offset, far,
                -1, HAS_BIAS, part == 1, PRECISION,
            )  # fmt: skip
            p = tl.exp2(s - m[None, :]) * r[None, :]
            dv_own += _dot(p.to(do_m.dtype), do_m, PRECISION)
            ds = p * (_product(v_own, do_m, True, PRECISION) - delta[None, :])
            dk_own += _dot(ds.to(q_m.dtype), q_m, PRECISION)
    _store(_base(dk, b, h), n0, n_keys, dk_own * (scale * LN_2), BLOCK, WIDTH, BLOCK_K)
    _store(_base(dv, b, h), n0, n_keys, dv_own, BLOCK, WIDTH, BLOCK_K)
