"""The Triton kernels against float64, bounded by PyTorch's own error; on a CPU through Triton's interpreter."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from ases.attention import attention

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
FLOOR = {torch.float32: 6 * torch.finfo(torch.float32).eps, torch.bfloat16: 1.5 * torch.finfo(torch.bfloat16).eps}  # of the largest number
SCALE_UP = 8 if CUDA else 1  # the same tests at real sizes where they are quick
NAMES = ("out", "dq", "dk", "dv", "drel_bias")


def make(B, H, S, T, K, dtype, seed, bias=True, layout="plain", magnitude=1.0):
    """q, k, v, rel_bias in ``dtype`` and an output gradient; ``layout`` picks the strides."""
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g).to(DEVICE, dtype)
    if layout == "plain":
        q, k, v = (r(B, H, n, K) for n in (S, T, T))
    elif layout == "split":  # as the model makes them: (B, n, H, K) transposed
        q, k, v = (r(B, n, H, K).transpose(1, 2) for n in (S, T, T))
    else:  # every second row and column of something larger
        q, k, v = (r(B, H, 2 * n, 2 * K)[:, :, ::2, ::2] for n in (S, T, T))
    return magnitude * q, k, v, (r(H, S + T - 1) * 2 if bias else None), r(B, H, S, K)


def run(backend, q, k, v, rel_bias, do, dtype=None, **arguments):
    """Output and gradients of one backend, in float64; ``dtype`` computes in another precision."""
    inputs = [None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for x in (q, k, v, rel_bias)]
    out = attention(*inputs, backend=backend, **arguments)
    gradients = torch.autograd.grad(out, [x for x in inputs if x is not None], do.to(out.dtype))
    return dict(zip(NAMES, [out.detach().double(), *(g.double() for g in gradients)]))


def poison(q):
    """Leave NaN in the memory that the next outputs will be given."""
    if CUDA:
        junk = [torch.full_like(q, float("nan")) for _ in range(8)]
        del junk


DRAWS = 2  # the largest error of a few hundred numbers is a noisy thing: errors are pooled over fresh inputs


def largest_errors(backend, draws, exact, **arguments):
    errors = {}
    for inputs, truth in zip(draws, exact):
        for name, value in run(backend, *inputs, **arguments).items():
            assert value.isfinite().all(), (backend, name)
            errors[name] = max(errors.get(name, 0.0), float((value - truth[name]).abs().max()))
    return errors


def check(*shape, seed, prepare=lambda *inputs: inputs, **arguments):
    """The kernels' largest errors against twice those of PyTorch's SDPA in the same dtype on the same inputs.

    On a CPU plain operations are a second yardstick, for SDPA there computes bfloat16 in float32 throughout, which no
    kernel with 16-bit products can match. The floor is for draws in which PyTorch happens to hit the exact number.
    """
    *shape, options = shape if isinstance(shape[-1], dict) else (*shape, {})
    draws = [prepare(*make(*shape, seed=seed + 1000 * draw, **options)) for draw in range(DRAWS)]
    exact = [run("reference", *inputs, torch.float64, **arguments) for inputs in draws]
    yardsticks = [largest_errors(backend, draws, exact, **arguments) for backend in (("sdpa",) if CUDA else ("sdpa", "reference"))]
    for _ in range(2 if CUDA else 1):  # twice for races
        poison(draws[0][0])
        for name, error in largest_errors("triton", draws, exact, **arguments).items():
            floor = FLOOR[draws[0][0].dtype] * max(float(truth[name].abs().max()) for truth in exact)
            assert error <= max(2 * max(y[name] for y in yardsticks), floor), (name, error, yardsticks, floor)


def lengths(B, T, seed):
    values = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(seed))
    values[0] = 1  # all but one key padded away
    return values.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias, causal, padded", list(itertools.product([True, False], repeat=3)))
def test_every_combination(dtype, bias, causal, padded):
    seed = 4 * bias + 2 * causal + padded
    S, T = (70 * SCALE_UP, 70 * SCALE_UP)
    check(2, 2, S, T, 16, dtype, dict(bias=bias), seed=seed, causal=causal, key_lengths=lengths(2, T, seed) if padded else None, scale=0.3)


@pytest.mark.parametrize("S, T", [(1, 1), (1, 40), (40, 1), (33, 65), (64, 32), (31, 100), (3, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_shapes(S, T, causal):
    check(2, 2, S, T, 32, torch.float32, seed=S + T, causal=causal, key_lengths=lengths(2, T, S), scale=0.2)


@pytest.mark.parametrize("K", [16, 24, 40, 64, 80, 128])
def test_head_widths(K):
    check(1, 2, 37, 41, K, torch.float32, seed=K, causal=True, scale=K**-0.5)
    check(1, 2, 37, 41, K, torch.bfloat16, seed=K, scale=K**-0.5)


@pytest.mark.parametrize("layout", ["split", "strided"])
def test_strides(layout):
    check(2, 3, 35, 50, 20, torch.float32, dict(layout=layout), seed=5, key_lengths=lengths(2, 50, 1), scale=0.3)


def test_strides_of_the_output_gradient():
    check(2, 3, 35, 50, 20, torch.float32, seed=6, causal=True, scale=0.3, prepare=lambda *i: (*i[:4], i[4].transpose(1, 2).contiguous().transpose(1, 2)))


@pytest.mark.parametrize("S, T, offset", [(1, 30, 29), (5, 40, 35), (4, 20, 7)])
def test_cached_offsets(S, T, offset):
    check(2, 2, S, T, 16, torch.float32, seed=offset, causal=True, query_offset=offset, scale=0.5)


@pytest.mark.parametrize("magnitude", [1e-4, 300.0, 2500.0])
def test_extreme_scores(magnitude):
    grow = lambda q, k, v, rel_bias, do: (q, k, v, magnitude * rel_bias, do)
    check(2, 2, 40, 40, 16, torch.float32, dict(magnitude=magnitude), seed=9, key_lengths=lengths(2, 40, 2), prepare=grow)  # scores to about ±1e4


def clamped_bias(H, S, T, offset, span, seed):
    """A bias that is constant from ``span`` on, on each side."""
    difference = (torch.arange(S + T - 1) - (S - 1) - offset).clamp(-span, span) + span
    return torch.randn(H, 2 * span + 1, generator=torch.Generator().manual_seed(seed))[:, difference].to(DEVICE), difference.to(DEVICE)


@pytest.mark.parametrize("S, T, offset, span, causal", [(200, 200, 0, 20, False), (200, 200, 0, 33, True), (150, 260, 0, 5, False), (40, 300, 260, 30, True), (260, 90, 0, 64, False), (70, 70, 0, 1, False), (90, 90, 0, 500, False), (150, 150, 240, 5, True)])
def test_beyond_the_span(S, T, offset, span, causal):
    """With a promised span the output is the same and so is the gradient of the table that the bias came from."""
    q, k, v, _, do = make(2, 2, S, T, 16, torch.float32, span)
    rel_bias, difference = clamped_bias(2, S, T, offset, span, span)
    arguments = dict(causal=causal, query_offset=offset, key_lengths=lengths(2, T, 3), scale=0.3)
    plain, promised = run("triton", q, k, v, rel_bias, do, **arguments), run("triton", q, k, v, rel_bias, do, bias_span=span, **arguments)
    exact = run("reference", q, k, v, rel_bias, do, torch.float64, **arguments)
    torchs = run("sdpa", q, k, v, rel_bias, do, **arguments)
    for results in (plain, promised, exact, torchs):
        results["drel_bias"] = torch.zeros(2, 2 * span + 1, dtype=torch.float64, device=DEVICE).index_add(1, difference, results["drel_bias"])
    for name in NAMES:
        allowed = max(3 * (torchs[name] - exact[name]).abs().max(), 10 * torch.finfo(q.dtype).eps * exact[name].abs().max())  # one draw, long sums: see DRAWS
        for results in (plain, promised):
            assert (results[name] - exact[name]).abs().max() <= allowed, name


def test_the_same_bits_twice():
    inputs = make(3, 2, 90, 90, 16, torch.float32, 1)
    first, second = (run("triton", *inputs, causal=True) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_one_graph_under_compile():
    q, k, v, rel_bias, do = make(1, 2, 20, 20, 16, torch.float32, 3)
    function = lambda q, k, v, b: attention(q, k, v, b, causal=True, backend="triton")
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    inputs = [x.clone().requires_grad_() for x in (q, k, v, rel_bias)]
    out = compiled(*inputs)
    expected = run("triton", q, k, v, rel_bias, do, causal=True)
    assert torch.equal(out.double(), expected["out"])
    assert all(torch.equal(g.double(), expected[n]) for n, g in zip(NAMES[1:], torch.autograd.grad(out, inputs, do)))


def test_registered_operators_are_consistent():
    q, k, v, rel_bias, _ = make(1, 2, 9, 11, 16, torch.float32, 4)
    inputs = tuple(x.requires_grad_() for x in (q, k, v, rel_bias)) + (None, False, 0, 1 << 29, 1.0)
    torch.library.opcheck(torch.ops.ases.attention_forward.default, inputs, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def test_every_kernel_compiles_for_a_gpu():
    """The interpreter takes what the compiler refuses; the compiler runs without a GPU, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(Path(__file__).parent / "compile_kernels.py")], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "48 compiled" in done.stdout, (done.stdout + done.stderr)[-2000:]


def test_a_span_beyond_all_numbers_is_no_span():
    q, k, v, rel_bias, _ = make(1, 2, 40, 40, 16, torch.float32, 8)
    expected = attention(q, k, v, rel_bias, backend="triton")
    assert torch.equal(attention(q, k, v, rel_bias, backend="triton", bias_span=2**31 - 1), expected)


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        attention(*make(1, 1, 4, 4, 16, torch.float64, 0)[:4], backend="triton")
    with pytest.raises(ValueError, match="head width of 8"):
        attention(*make(1, 1, 4, 4, 8, torch.float32, 0)[:4], backend="triton")
    if not CUDA:
        import ases.kernels.attention as kernels

        monkeypatch.setattr(kernels, "_INTERPRETED", type(kernels._INTERPRETED)(False))
        with pytest.raises(RuntimeError, match="needs a CUDA device"):
            attention(*make(1, 1, 4, 4, 16, torch.float32, 0)[:4], backend="triton")
