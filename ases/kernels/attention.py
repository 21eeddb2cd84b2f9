"""Fused attention with a relative position bias: Triton kernels, forward and backward.

The matrix of scores never exists. A program owns one block of queries (or, for the gradients of keys and values,
of keys) and walks over the blocks of the other side; the bias is read from its vector, ``rel_bias[h, j − i + S − 1]``,
padding is a length, and causality a comparison. docs/attention.md draws the tiles. Everything below is for one
batch row and one head; i is a query, j a key, s_ij = scale · q_i·k_j + b_{j−i} the score, −∞ where j is not seen.

**Forward, the online softmax.** Wanted is o_i = Σ_j e^{s_ij} v_j / Σ_j e^{s_ij}. Take the keys block by block and
keep, for the keys so far, the largest score m_i, the sum l_i = Σ e^{s_ij − m_i} and the output a_i = Σ e^{s_ij − m_i} v_j.
A new block with largest score m' moves the reference to n = max(m, m'): l and a shrink by e^{m − n}, then the block's
terms are added. At the end o = a / l. m_i and l_i are kept for the backward pass: p_ij = e^{s_ij − m_i} / l_i. (One
number, m_i + ln l_i, would do, but where scores are large it has no digits left for the logarithm.)

**Backward.** With dO given, dP_ij = dO_i·v_j, and from o = Σ_j p_ij v_j and p = softmax(s):

    dV_j = Σ_i p_ij dO_i
    dS_ij = p_ij (dP_ij − D_i),   D_i = Σ_j p_ij dP_ij = dO_i·o_i
    dQ_i = scale Σ_j dS_ij k_j,   dK_j = scale Σ_i dS_ij q_i
    db_d = Σ_{j − i = d} dS_ij

D_i = dO_i·o_i is one product of rows, but o carries its own rounding, and where the softmax is nearly one-hot dP − D
is nothing but rounding. In bfloat16 that drowns in the rest; in float32 a pass over the keys sums p_ij dP_ij instead.

**The bias gradient** sums dS along diagonals. In a tile of BLOCK × BLOCK, shifting row r by r places turns diagonals
into columns (``tl.gather``), and a sum over rows finishes them: a lower and an upper half, BLOCK differences each.
Walking to the next block of keys moves by exactly BLOCK, so this tile's upper half is the next tile's lower half:
it is carried, and each program writes each difference once. No atomics: the gradient is deterministic.

**Beyond the band.** Where the caller says that all differences beyond ±span share one bias per side, as T5's do, a
tile wholly beyond adds a scalar in the forward and the query pass, and its part of the gradient is one sum. What
remains to do and to keep per difference then grows linearly with length; without the promise each block of queries
keeps S + T − 1 sums. The sums beyond are returned at the first and last entry of the gradient: see ``attention``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

UNBOUNDED = 1 << 29  # a span that no difference reaches


_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # fixed for each kernel where it is defined
_VARYING = ["S", "T", "offset", "span", "band_first", "band_width"]  # decoding changes them at every step: no new kernels for that


# --- what all kernels share ----------------------------------------------------------------------


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    if _INTERPRETED:  # the interpreter cannot multiply bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _rows(pointer, rows, n_rows, row_stride, columns, n_columns, column_stride):
    """Load (rows, columns) of a matrix, zeros outside of it."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    return tl.load(pointer + rows[:, None].to(tl.int64) * row_stride + columns[None, :] * column_stride, mask=inside, other=0.0)


@triton.jit
def _store_rows(pointer, value, rows, n_rows, row_stride, columns, n_columns, column_stride):
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    tl.store(pointer + rows[:, None].to(tl.int64) * row_stride + columns[None, :] * column_stride, value.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _scores(q, k, i, j, bias, S, T, n_keys, offset, scale, far_bias, CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, FAR: tl.constexpr, PRECISION: tl.constexpr):
    """One tile of s_ij, (queries, keys), −∞ where a key is not seen."""
    s = _dot(q, tl.trans(k), PRECISION) * scale
    if HAS_BIAS:
        if FAR:
            s += far_bias
        else:
            difference = j[None, :] - i[:, None] + S - 1
            s += tl.load(bias + difference, mask=(difference >= 0) & (difference < S + T - 1), other=0.0).to(tl.float32)
    seen = j[None, :] < n_keys
    if CAUSAL:
        seen = seen & (j[None, :] <= i[:, None] + offset)
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _key_ranges(m0, n_keys, offset, span, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where the key blocks of a query block end: those beyond the band on the left, those in the band, all."""
    end = n_keys
    if CAUSAL:
        end = tl.minimum(end, m0 + BLOCK_M + offset)
    left = tl.maximum(m0 + offset - span + 1, 0) // BLOCK_N * BLOCK_N
    left = tl.minimum(left, tl.cdiv(end, BLOCK_N) * BLOCK_N)
    band = tl.cdiv(tl.maximum(m0 + BLOCK_M - 1 + offset + span, 0), BLOCK_N) * BLOCK_N
    return left, tl.maximum(tl.minimum(band, end), left), end


# --- forward -------------------------------------------------------------------------------------


@triton.jit
def _forward_blocks(a, l, m, q, i, first, last, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, far_bias, S, T, K, n_keys, offset, scale,
                    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, FAR: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    c = tl.arange(0, BLOCK_K)
    for n0 in range(first, last, BLOCK_N):
        j = n0 + tl.arange(0, BLOCK_N)
        k = _rows(k_ptr, j, T, stride_kt, c, K, stride_kk)
        v = _rows(v_ptr, j, T, stride_vt, c, K, stride_vk)
        s = _scores(q, k, i, j, bias, S, T, n_keys, offset, scale, far_bias, CAUSAL, HAS_BIAS, FAR, PRECISION)
        n = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - n[:, None])
        shrink = tl.exp(m - n)
        l = l * shrink + tl.sum(p, 1)
        a = a * shrink[:, None] + _dot(p.to(v.dtype), v, PRECISION)
        m = n
    return a, l, m


@triton.jit(do_not_specialize=_VARYING)
def _forward_kernel(q_ptr, k_ptr, v_ptr, bias_ptr, lengths_ptr, out_ptr, m_ptr, l_ptr, stride_qb, stride_qh, stride_qs, stride_qk, stride_kb, stride_kh, stride_kt, stride_kk,
                    stride_vb, stride_vh, stride_vt, stride_vk, stride_ob, stride_oh, stride_os, stride_ok, H, S, T, K, offset, span, scale,
                    CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LENGTHS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    m0 = tl.program_id(1) * BLOCK_M
    b, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    i, c = m0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    k_ptr += b * stride_kb + h * stride_kh
    v_ptr += b * stride_vb + h * stride_vh
    n_keys = tl.load(lengths_ptr + b).to(tl.int32) if HAS_LENGTHS else T
    bias = bias_ptr + h * (S + T - 1)
    q = _rows(q_ptr + b * stride_qb + h * stride_qh, i, S, stride_qs, c, K, stride_qk)

    a = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)  # every query sees key 0, so the first block makes it finite
    left, band, end = _key_ranges(m0, n_keys, offset, span, CAUSAL, BLOCK_M, BLOCK_N)
    if HAS_BIAS:
        far = tl.load(bias).to(tl.float32)
        a, l, m = _forward_blocks(a, l, m, q, i, 0, left, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, far, S, T, K, n_keys, offset, scale, CAUSAL, True, True, BLOCK_N, BLOCK_K, PRECISION)
        a, l, m = _forward_blocks(a, l, m, q, i, left, band, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, 0.0, S, T, K, n_keys, offset, scale, CAUSAL, True, False, BLOCK_N, BLOCK_K, PRECISION)
        far = tl.load(bias + S + T - 2).to(tl.float32)
        a, l, m = _forward_blocks(a, l, m, q, i, band, end, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, far, S, T, K, n_keys, offset, scale, CAUSAL, True, True, BLOCK_N, BLOCK_K, PRECISION)
    else:
        a, l, m = _forward_blocks(a, l, m, q, i, 0, end, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, 0.0, S, T, K, n_keys, offset, scale, CAUSAL, False, False, BLOCK_N, BLOCK_K, PRECISION)
    _store_rows(out_ptr + b * stride_ob + h * stride_oh, a / l[:, None], i, S, stride_os, c, K, stride_ok)
    tl.store(m_ptr + (b * H + h) * S + i, m, mask=i < S)
    tl.store(l_ptr + (b * H + h) * S + i, l, mask=i < S)


# --- backward: queries and bias ------------------------------------------------------------------


@triton.jit
def _diagonals(ds, BLOCK: tl.constexpr):
    """Sums of a (BLOCK, BLOCK) tile along its diagonals c − r: those from −(BLOCK − 1) to 0, those from 1 to BLOCK."""
    r, e = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    column = e + r - (BLOCK - 1)
    lower = tl.where(column >= 0, tl.gather(ds, tl.maximum(column, 0), 1), 0.0)
    column = e + r + 1
    upper = tl.where(column < BLOCK, tl.gather(ds, tl.minimum(column, BLOCK - 1), 1), 0.0)
    return tl.sum(lower, 0), tl.sum(upper, 0)


@triton.jit
def _query_blocks(dq, q, do, m, l, delta, i, m0, first, last, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, far_bias, band_ptr, band_first, band_width, S, T, K, n_keys, offset, scale,
                  CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, FAR: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    c, e = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK)
    carry = tl.zeros([BLOCK], tl.float32)
    far_sum = tl.zeros([], tl.float32)
    at = first - m0 + S - BLOCK - band_first + e  # where the lower half of the first tile's diagonals goes
    for n0 in range(first, last, BLOCK):
        j = n0 + tl.arange(0, BLOCK)
        k = _rows(k_ptr, j, T, stride_kt, c, K, stride_kk)
        v = _rows(v_ptr, j, T, stride_vt, c, K, stride_vk)
        s = _scores(q, k, i, j, bias, S, T, n_keys, offset, scale, far_bias, CAUSAL, HAS_BIAS, FAR, PRECISION)
        p = tl.exp(s - m[:, None]) / l[:, None]
        ds = p * (_dot(do, tl.trans(v), PRECISION) - delta[:, None])
        dq += _dot(ds.to(k.dtype), k, PRECISION)
        if HAS_BIAS:
            if FAR:
                far_sum += tl.sum(tl.sum(ds, 1), 0)
            else:
                lower, upper = _diagonals(ds, BLOCK)
                tl.store(band_ptr + at, lower + carry, mask=(at >= 0) & (at < band_width))
                carry = upper
                at += BLOCK
    if HAS_BIAS and not FAR:
        if first < last:
            tl.store(band_ptr + at, carry, mask=(at >= 0) & (at < band_width))
    return dq, far_sum


@triton.jit(do_not_specialize=_VARYING)
def _query_gradient_kernel(q_ptr, k_ptr, v_ptr, bias_ptr, lengths_ptr, do_ptr, out_ptr, m_ptr, l_ptr, delta_ptr, dq_ptr, band_ptr, far_ptr, stride_qb, stride_qh, stride_qs, stride_qk, stride_kb, stride_kh, stride_kt, stride_kk,
                           stride_vb, stride_vh, stride_vt, stride_vk, stride_ob, stride_oh, stride_os, stride_ok, stride_ub, stride_uh, stride_us, stride_uk, stride_db, stride_dh, stride_ds, stride_dk,
                           H, S, T, K, offset, span, scale, band_first, band_width,
                           CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LENGTHS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    m0 = tl.program_id(1) * BLOCK
    b, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    i, c = m0 + tl.arange(0, BLOCK), tl.arange(0, BLOCK_K)
    k_ptr += b * stride_kb + h * stride_kh
    v_ptr += b * stride_vb + h * stride_vh
    n_keys = tl.load(lengths_ptr + b).to(tl.int32) if HAS_LENGTHS else T
    bias = bias_ptr + h * (S + T - 1)
    q = _rows(q_ptr + b * stride_qb + h * stride_qh, i, S, stride_qs, c, K, stride_qk)
    do = _rows(do_ptr + b * stride_ob + h * stride_oh, i, S, stride_os, c, K, stride_ok)
    m = tl.load(m_ptr + (b * H + h) * S + i, mask=i < S, other=float("inf"))  # p = 0 in rows that do not exist
    l = tl.load(l_ptr + (b * H + h) * S + i, mask=i < S, other=1.0)
    left, band, end = _key_ranges(m0, n_keys, offset, span, CAUSAL, BLOCK, BLOCK)
    if PRECISION == "ieee":
        delta = tl.zeros([BLOCK], tl.float32)
        for n0 in range(0, end, BLOCK):
            j = n0 + tl.arange(0, BLOCK)
            k = _rows(k_ptr, j, T, stride_kt, c, K, stride_kk)
            v = _rows(v_ptr, j, T, stride_vt, c, K, stride_vk)
            p = tl.exp(_scores(q, k, i, j, bias, S, T, n_keys, offset, scale, 0.0, CAUSAL, HAS_BIAS, False, PRECISION) - m[:, None]) / l[:, None]
            delta += tl.sum(p * _dot(do, tl.trans(v), PRECISION), 1)
    else:
        out = _rows(out_ptr + b * stride_ub + h * stride_uh, i, S, stride_us, c, K, stride_uk)
        delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + (b * H + h) * S + i, delta, mask=i < S)  # for the kernel below
    program = (b * H + h) * tl.num_programs(1) + tl.program_id(1)
    band_ptr += program * band_width

    dq = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    if HAS_BIAS:
        far = tl.load(bias).to(tl.float32)
        dq, left_sum = _query_blocks(dq, q, do, m, l, delta, i, m0, 0, left, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, far, band_ptr, band_first, band_width, S, T, K, n_keys, offset, scale, CAUSAL, True, True, BLOCK, BLOCK_K, PRECISION)
        dq, _ = _query_blocks(dq, q, do, m, l, delta, i, m0, left, band, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, 0.0, band_ptr, band_first, band_width, S, T, K, n_keys, offset, scale, CAUSAL, True, False, BLOCK, BLOCK_K, PRECISION)
        far = tl.load(bias + S + T - 2).to(tl.float32)
        dq, right_sum = _query_blocks(dq, q, do, m, l, delta, i, m0, band, end, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, far, band_ptr, band_first, band_width, S, T, K, n_keys, offset, scale, CAUSAL, True, True, BLOCK, BLOCK_K, PRECISION)
        tl.store(far_ptr + 2 * program, left_sum)
        tl.store(far_ptr + 2 * program + 1, right_sum)
    else:
        dq, _ = _query_blocks(dq, q, do, m, l, delta, i, m0, 0, end, k_ptr, v_ptr, stride_kt, stride_kk, stride_vt, stride_vk, bias, 0.0, band_ptr, band_first, band_width, S, T, K, n_keys, offset, scale, CAUSAL, False, False, BLOCK, BLOCK_K, PRECISION)
    _store_rows(dq_ptr + b * stride_db + h * stride_dh, dq * scale, i, S, stride_ds, c, K, stride_dk)


# --- backward: keys and values -------------------------------------------------------------------


@triton.jit(do_not_specialize=_VARYING)
def _key_gradient_kernel(q_ptr, k_ptr, v_ptr, bias_ptr, lengths_ptr, do_ptr, m_ptr, l_ptr, delta_ptr, dk_ptr, dv_ptr, stride_qb, stride_qh, stride_qs, stride_qk, stride_kb, stride_kh, stride_kt, stride_kk,
                         stride_vb, stride_vh, stride_vt, stride_vk, stride_ob, stride_oh, stride_os, stride_ok, stride_db, stride_dh, stride_dt, stride_dd, stride_eb, stride_eh, stride_et, stride_ed,
                         H, S, T, K, offset, scale,
                         CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LENGTHS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    n0 = tl.program_id(1) * BLOCK
    b, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    j, c = n0 + tl.arange(0, BLOCK), tl.arange(0, BLOCK_K)
    n_keys = tl.load(lengths_ptr + b).to(tl.int32) if HAS_LENGTHS else T
    bias = bias_ptr + h * (S + T - 1)
    k = _rows(k_ptr + b * stride_kb + h * stride_kh, j, T, stride_kt, c, K, stride_kk)
    v = _rows(v_ptr + b * stride_vb + h * stride_vh, j, T, stride_vt, c, K, stride_vk)
    q_ptr += b * stride_qb + h * stride_qh
    do_ptr += b * stride_ob + h * stride_oh

    dk = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    dv = tl.zeros([BLOCK, BLOCK_K], tl.float32)
    first = tl.maximum(n0 - offset, 0) // BLOCK * BLOCK if CAUSAL else 0
    last = tl.where(n0 < n_keys, S, 0)  # keys that nobody sees have no gradient
    for m0 in range(first, last, BLOCK):
        i = m0 + tl.arange(0, BLOCK)
        q = _rows(q_ptr, i, S, stride_qs, c, K, stride_qk)
        do = _rows(do_ptr, i, S, stride_os, c, K, stride_ok)
        m = tl.load(m_ptr + (b * H + h) * S + i, mask=i < S, other=float("inf"))
        l = tl.load(l_ptr + (b * H + h) * S + i, mask=i < S, other=1.0)
        delta = tl.load(delta_ptr + (b * H + h) * S + i, mask=i < S, other=0.0)
        # Beyond the band the vector holds one value over and over, so reading it there is right too.
        s = _scores(q, k, i, j, bias, S, T, n_keys, offset, scale, 0.0, CAUSAL, HAS_BIAS, False, PRECISION)
        p = tl.exp(s - m[:, None]) / l[:, None]
        dv += _dot(tl.trans(p.to(do.dtype)), do, PRECISION)
        ds = p * (_dot(do, tl.trans(v), PRECISION) - delta[:, None])
        dk += _dot(tl.trans(ds.to(q.dtype)), q, PRECISION)
    _store_rows(dk_ptr + b * stride_db + h * stride_dh, dk * scale, j, T, stride_dt, c, K, stride_dd)
    _store_rows(dv_ptr + b * stride_eb + h * stride_eh, dv, j, T, stride_et, c, K, stride_ed)


# --- from tensors to kernels ---------------------------------------------------------------------


def _settings(q: Tensor, causal: bool, rel_bias: Tensor | None, lengths: Tensor | None) -> dict:
    return dict(CAUSAL=causal, HAS_BIAS=rel_bias is not None, HAS_LENGTHS=lengths is not None, BLOCK_K=max(16, triton.next_power_of_2(q.shape[-1])),
                PRECISION="ieee" if q.dtype == torch.float32 else "tf32",  # tf32 has no meaning for 16-bit inputs
                num_warps=8, num_stages=1 if q.dtype == torch.float32 else 2)  # what fits the registers and shared memory of most GPUs


@torch.library.custom_op("ases::attention_forward", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, lengths: Tensor | None, causal: bool, offset: int, span: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Output, laid out like q, and m and l, (B, H, S) float32."""
    B, H, S, K = q.shape
    T = k.shape[2]
    out, m, l = torch.empty_like(q), *(torch.empty(B, H, S, dtype=torch.float32, device=q.device) for _ in range(2))
    block_m, block_n = (32, 32) if q.dtype == torch.float32 else (128, 64) if K <= 64 else (64, 64)
    bias = q if rel_bias is None else rel_bias.contiguous()
    with torch.cuda.device_of(q):  # Triton launches on the current device
        _forward_kernel[(B * H, triton.cdiv(S, block_m))](
            q, k, v, bias, q if lengths is None else lengths.contiguous(), out, m, l, *q.stride(), *k.stride(), *v.stride(), *out.stride(), H, S, T, K, offset, span, scale,
            BLOCK_M=block_m, BLOCK_N=block_n, **_settings(q, causal, rel_bias, lengths))
    return out, m, l


@torch.library.custom_op("ases::attention_backward", mutates_args=())
def _backward(do: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, lengths: Tensor | None, out: Tensor, m: Tensor, l: Tensor, causal: bool, offset: int, span: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dQ, dK, dV laid out like q, k, v, and db, (H, S + T − 1) float32 (empty without a bias)."""
    B, H, S, K = q.shape
    T = k.shape[2]
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    delta = torch.empty_like(m)  # D, (B, H, S); the first kernel fills it for the second
    block = 32 if q.dtype == torch.float32 or K > 64 else 64
    settings = _settings(q, causal, rel_bias, lengths) | dict(BLOCK=block)
    n_blocks = triton.cdiv(S, block)
    bias = q if rel_bias is None else rel_bias.contiguous()
    lengths_ = q if lengths is None else lengths.contiguous()
    strides = (*q.stride(), *k.stride(), *v.stride(), *do.stride())

    # The differences that band tiles can hold, two blocks beyond ±span, or all of them if that is fewer.
    band_first, band_width = S - 1 + offset - span - 2 * block, 2 * span + 4 * block + 1
    if rel_bias is None or band_width >= S + T - 1:
        band_first, band_width = 0, S + T - 1
    shape = (B, H, n_blocks) if rel_bias is not None else (1, 1, 1)
    band = torch.zeros(*shape, band_width if rel_bias is not None else 1, dtype=torch.float32, device=q.device)
    far = torch.zeros(*shape, 2, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        _query_gradient_kernel[(B * H, n_blocks)](
            q, k, v, bias, lengths_, do, out, m, l, delta, dq, band, far, *strides, *out.stride(), *dq.stride(), H, S, T, K, offset, span, scale, band_first, band_width, **settings)
        _key_gradient_kernel[(B * H, triton.cdiv(T, block))](
            q, k, v, bias, lengths_, do, m, l, delta, dk, dv, *strides, *dk.stride(), *dv.stride(), H, S, T, K, offset, scale, **settings)
    if rel_bias is None:
        return dq, dk, dv, q.new_empty(0, dtype=torch.float32)
    d_bias = torch.zeros(H, S + T - 1, dtype=torch.float32, device=q.device)
    low = max(band_first, 0)
    high = max(low, min(band_first + band_width, S + T - 1))
    d_bias[:, low:high] = band.sum((0, 2))[:, low - band_first : high - band_first]
    d_bias[:, 0] += far[..., 0].sum((0, 2))
    d_bias[:, -1] += far[..., 1].sum((0, 2))
    return dq, dk, dv, d_bias


@_forward.register_fake
def _(q, k, v, rel_bias, lengths, causal, offset, span, scale):
    return torch.empty_like(q), *(q.new_empty(q.shape[:3], dtype=torch.float32) for _ in range(2))


@_backward.register_fake
def _(do, q, k, v, rel_bias, lengths, out, m, l, causal, offset, span, scale):
    shape = (0,) if rel_bias is None else rel_bias.shape
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), q.new_empty(shape, dtype=torch.float32)


def _keep(ctx, inputs, output):
    q, k, v, rel_bias, lengths, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, rel_bias, lengths, *output)


def _differentiate(ctx, do, *_):
    q, k, v, rel_bias, lengths, out, m, l = ctx.saved_tensors
    dq, dk, dv, d_bias = _backward(do, q, k, v, rel_bias, lengths, out, m, l, *ctx.settings)
    return dq, dk, dv, None if rel_bias is None else d_bias.to(rel_bias.dtype), None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def triton_attention(q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, causal: bool, key_lengths: Tensor | None, query_offset: int, scale: float, bias_span: int | None) -> Tensor:
    """``attention`` by the kernels above; arguments and shapes are those of ``attention``.

    Raises:
        ValueError: a dtype other than float32 and bfloat16, or a head width outside 16 to 128.
        RuntimeError: neither CUDA nor Triton's interpreter to run on.
    """
    if q.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"q is {q.dtype}; expected float32 or bfloat16 for backend='triton'")
    if not 16 <= q.shape[-1] <= 128:
        raise ValueError(f"q has a head width of {q.shape[-1]}; expected 16 to 128 for backend='triton'")
    if not q.is_cuda and not _INTERPRETED.value:
        raise RuntimeError(f"backend='triton' needs a CUDA device, and q is on {q.device}; set TRITON_INTERPRET=1 before the first import to run the kernels on a CPU, slowly")
    return _forward(q, k, v, rel_bias, key_lengths, causal, query_offset, UNBOUNDED if bias_span is None else min(bias_span, UNBOUNDED), scale)[0]


def supports(q: Tensor) -> bool:
    """Whether ``auto`` chooses these kernels for q: in bfloat16, what they are built for; float32 is exact but slow."""
    return q.is_cuda and q.dtype == torch.bfloat16 and 16 <= q.shape[-1] <= 128
