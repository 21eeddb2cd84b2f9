"""Fused attention as a differentiable PyTorch operator."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from ases.attention import Mask, attend
from ases.kernels.attention import (
    INTERPRETED,
    LOG2_E,
    Bias,
    Rows,
    SpanEnds,
    Stats,
    forward_kernel,
    key_gradient_kernel,
    query_gradient_kernel,
)


def tiles(dtype: torch.dtype, width: int, n_queries: int) -> dict[str, dict]:
    """Tile sizes, warps and pipeline stages of each kernel: a fixed table, no autotuning.

    On compute capability 9.0, bfloat16 uses the matrix instructions and spills no registers;
    tests/compile_kernels.py asserts it.
    """
    if dtype == torch.float32:
        # All kernels multiply 32 queries by 16 keys, so they round large scores alike.
        small = dict(num_warps=8, num_stages=1)
        return {
            "forward": small | dict(BLOCK=32, STEP=16),
            "queries": small | dict(BLOCK=32),
            "keys": small | dict(BLOCK=16, STEP=32),
        }
    wide = width > 64
    four = dict(num_warps=4, num_stages=3)
    return {
        # Decoding has one query, which needs no block of 64.
        "forward": four | dict(BLOCK=16 if n_queries <= 16 else 64, STEP=32 if wide else 64),
        "queries": four | dict(BLOCK=64),
        # dK and dV of 64 wide rows need the registers of two warp groups.
        "keys": four | dict(BLOCK=64, STEP=32, num_warps=8 if wide else 4),
    }


# --- kernel arguments ----------------------------------------------------------------------------
def _unit_columns(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _rows(x: Tensor) -> Rows:
    return Rows(x, *x.stride()[:3])


def _bias(rel_bias: Tensor | None, pad: int, dummy: Tensor) -> Bias:
    """(H, 2·reach + 1) → (H, 2·reach + 1 + 2·pad) float32, times log₂ e, ends repeated."""
    if rel_bias is None:
        return Bias(dummy, 0, 0)
    left = rel_bias[:, :1].expand(-1, pad)
    right = rel_bias[:, -1:].expand(-1, pad)
    padded = torch.cat([left, rel_bias, right], 1).float() * LOG2_E
    return Bias(padded, padded.shape[1], padded.shape[1] // 2)


def _span_ends(first: Tensor | None, last: Tensor | None, batch: int, dummy: Tensor) -> SpanEnds:
    ends: list[Any] = []
    for end in (first, last):
        if end is None:
            ends += [dummy, 0, 0]
        else:
            end = end.expand(batch, -1)
            ends += [end, *end.stride()]
    return SpanEnds(*ends)


def dual_spans(
    first: Tensor | None, last: Tensor | None, n_keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """Spans of keys per query (rows, Q) → spans of queries per key (rows, T).

    >>> first, last = dual_spans(torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 3]]), 3)
    >>> first.tolist(), last.tolist()  # key 0 is seen by queries 0 and 1, key 1 by 1 and 2, ...
    ([[0, 1, 2]], [[2, 3, 3]])
    """

    def reaching(ends: Tensor | None) -> Tensor | None:
        if ends is None:
            return None
        keys = torch.arange(n_keys, dtype=ends.dtype, device=ends.device).repeat(ends.shape[0], 1)
        return torch.searchsorted(ends.contiguous(), keys, right=True, out_int32=True)

    return reaching(last), reaching(first)


def _constants(
    q: Tensor, rel_bias: Tensor | None, first: Tensor | None, last: Tensor | None
) -> dict:
    return dict(
        HAS_BIAS=rel_bias is not None,
        HAS_FIRST=first is not None,
        HAS_LAST=last is not None,
        WIDTH=q.shape[3],
        BLOCK_K=max(16, triton.next_power_of_2(q.shape[3])),
        # tf32 has no effect on 16-bit inputs.
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
    )


# --- the operator --------------------------------------------------------------------------------
@torch.library.custom_op("ases::attention_forward", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None,
    first: Tensor | None, last: Tensor | None, offset: int, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, laid out like q; largest scores and reciprocal sums, (B, H, Q) float32."""
    q, k, v = _unit_columns(q), _unit_columns(k), _unit_columns(v)
    B, H, Q, K = q.shape
    T = k.shape[2]
    out = torch.empty_like(q)
    m = torch.empty(B, H, Q, dtype=torch.float32, device=q.device)
    r = torch.empty_like(m)

    tile = tiles(q.dtype, K, Q)["forward"]
    reach = 0 if rel_bias is None else rel_bias.shape[1] // 2
    bias = _bias(rel_bias, tile["BLOCK"] + tile["STEP"], m)
    spans = _span_ends(first, last, B, m)
    sizes = (H, Q, T, offset, reach, scale * LOG2_E)
    constants = _constants(q, rel_bias, first, last) | tile
    grid = (B * H * triton.cdiv(Q, tile["BLOCK"]),)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        forward_kernel[grid](
            _rows(q), _rows(k), _rows(v), bias, spans, _rows(out), Stats(m, r, r),
            *sizes, **constants,
        )  # fmt: skip
    return out, m, r


@torch.library.custom_op("ases::attention_backward", mutates_args=())
def _backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None,
    first: Tensor | None, last: Tensor | None, out: Tensor, m: Tensor, r: Tensor,
    offset: int, scale: float, bias_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dQ, dK, dV, laid out like q, k, v; db (H, 2·reach + 1) float32, or empty."""
    do, q, k, v = _unit_columns(do), _unit_columns(q), _unit_columns(k), _unit_columns(v)
    B, H, Q, K = q.shape
    T = k.shape[2]
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    stats = Stats(m, r, torch.empty_like(m))  # the first kernel fills D for the second

    tile = tiles(q.dtype, K, Q)
    pad = 2 * tile["queries"]["BLOCK"]
    reach = 0 if rel_bias is None else rel_bias.shape[1] // 2
    bias = _bias(rel_bias, pad, m)
    n_blocks = triton.cdiv(Q, tile["queries"]["BLOCK"])
    sums = m
    if bias_gradient:
        sums = torch.zeros(B, H, n_blocks, bias.width, dtype=torch.float32, device=q.device)
    sizes = (H, Q, T, offset, reach, scale * LOG2_E)
    constants = _constants(q, rel_bias, first, last)
    spans = _span_ends(first, last, B, m)
    dual = _span_ends(*dual_spans(first, last, T), B, m)
    # A lower bound on keys is an upper bound on queries, and vice versa.
    dual_constants = constants | dict(HAS_FIRST=last is not None, HAS_LAST=first is not None)
    with torch.cuda.device_of(q):
        query_gradient_kernel[(B * H * n_blocks,)](
            _rows(q), _rows(k), _rows(v), _rows(do), _rows(out), _rows(dq),
            bias, spans, stats, sums, *sizes,
            GRADIENT=bias_gradient, **constants, **tile["queries"],
        )  # fmt: skip
        key_gradient_kernel[(B * H * triton.cdiv(T, tile["keys"]["BLOCK"]),)](
            _rows(q), _rows(k), _rows(v), _rows(do), _rows(dk), _rows(dv), bias, dual, stats,
            *sizes, **dual_constants, **tile["keys"],
        )  # fmt: skip

    if not bias_gradient:
        return dq, dk, dv, q.new_empty(0, dtype=torch.float32)
    # The padding's sums belong to the two outermost entries.
    sums = sums.sum((0, 2))
    d_bias = sums[:, pad:-pad].clone()
    d_bias[:, 0] += sums[:, :pad].sum(1)
    d_bias[:, -1] += sums[:, -pad:].sum(1)
    return dq, dk, dv, d_bias


@_forward.register_fake
def _(q, k, v, rel_bias, first, last, offset, scale):
    stats = [q.new_empty(q.shape[:3], dtype=torch.float32) for _ in range(2)]
    return torch.empty_like(_unit_columns(q)), *stats


@_backward.register_fake
def _(do, q, k, v, rel_bias, first, last, out, m, r, offset, scale, bias_gradient):
    gradients = [torch.empty_like(_unit_columns(x)) for x in (q, k, v)]
    shape = rel_bias.shape if bias_gradient else (0,)
    return *gradients, q.new_empty(shape, dtype=torch.float32)


def _keep(ctx, inputs, output):
    *tensors, offset, scale = inputs
    ctx.settings = (offset, scale)
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx, do, *_):
    tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[3]
    *gradients, d_bias = _backward(do, *tensors, *ctx.settings, wanted)
    if wanted:
        d_bias = d_bias.to(tensors[3].dtype)
    return *gradients, d_bias if wanted else None, None, None, None, None


# ``_backward`` has no autograd formula: PyTorch refuses a second derivative.
_forward.register_autograd(_differentiate, setup_context=_keep)


def triton_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None,
    first: Tensor | None, last: Tensor | None, query_offset: int, scale: float,
) -> Tensor:  # fmt: skip
    """``ases.attention.attention`` with these kernels; same arguments and shapes.

    Raises:
        ValueError: q is not float32 or bfloat16, or the head width is not 16 to 128.
        RuntimeError: no CUDA device or Triton interpreter; a second derivative.
    """
    if q.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"q is {q.dtype}; expected float32 or bfloat16 for backend='triton'")
    if not 16 <= q.shape[-1] <= 128:
        width = f"a head width of {q.shape[-1]}"
        raise ValueError(f"q has {width}; expected 16 to 128 for backend='triton'")
    if not q.is_cuda and not INTERPRETED.value:
        raise RuntimeError(
            f"backend='triton' needs a CUDA device, and q is on {q.device}; set TRITON_INTERPRET=1 "
            "before the first import to run the kernels on a CPU, slowly"
        )
    ends = [None if end is None else end.to(torch.int32) for end in (first, last)]
    return _forward(q, k, v, rel_bias, *ends, query_offset, scale)[0]


def supports(q: Tensor) -> bool:
    """Whether ``auto`` uses these kernels: bfloat16, K 16 to 128, compute capability ≥ 8.0, and a
    first small case came out right."""
    if not q.is_cuda or q.dtype != torch.bfloat16 or not 16 <= q.shape[-1] <= 128:
        return False
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return False
    return is_trusted(triton_attention, q.dtype, q.device, q.shape[-1])


@cache
def is_trusted(kernel: Callable, dtype: torch.dtype, device: torch.device, width: int) -> bool:
    """Whether ``kernel``'s output and gradients are those of ``reference`` in a small case. If not,
    prints a note. Asked once for each device, dtype and head width."""
    try:
        # Leaving inference mode also turns gradients on.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            error = _error(kernel, dtype, device, width)
        problem = "" if error < 0.03 else f"its results are wrong by {error:.1%}"
    except Exception as raised:  # Triton's, its compiler's, the driver's
        problem = f"{type(raised).__name__}: {' '.join(str(raised).split())[:200]}"
    if problem:
        message = (
            f"the fused attention kernel failed its self-test on {device}; not used ({problem})"
        )
        print(f"note: {message}", file=sys.stderr)
    return not problem


def _error(kernel: Callable, dtype: torch.dtype, device: torch.device, width: int) -> float:
    """The largest error of an output or a gradient, relative to its largest value, with spans, a
    bias and a query that sees nothing."""
    random = torch.Generator().manual_seed(0)
    shapes = [(2, 2, n, width) for n in (5, 7, 7)] + [(2, 7), (2, 2, 5, width)]
    drawn = [torch.randn(shape, generator=random).to(device, dtype) for shape in shapes]
    *tensors, upstream = drawn  # q, k, v, bias; then the gradient of the output
    first, last = (torch.tensor([row], device=device) for row in ([0, 0, 1, 3, 7], [2, 5, 6, 7, 7]))

    def reference(q, k, v, bias, first, last, offset, scale):
        return attend(q, k, v, Mask(first, last, bias, offset), scale, "reference")

    results = []
    compared: list[tuple[Callable, torch.dtype]] = [(kernel, dtype), (reference, torch.float32)]
    for attention, exact in compared:
        inputs = [x.to(exact).requires_grad_() for x in tensors]
        out = attention(*inputs, first, last, 1, width**-0.5)
        gradients = torch.autograd.grad(out, inputs, upstream.to(exact))
        results.append([x.float() for x in (out.detach(), *gradients)])
    errors = [(a - b).abs().max() / b.abs().max() for a, b in zip(*results)]
    return float(torch.stack(errors).max())
