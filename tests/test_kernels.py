"""The Triton kernels against float64, bounded by PyTorch's own error.

On a CPU they run through Triton's interpreter.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from ases.attention import attention, block_span, causal_span, packed_span
from ases.kernels import operator

F32, BF16 = torch.float32, torch.bfloat16
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# Of the largest number, for draws in which PyTorch happens to hit the exact one.
FLOOR = {F32: 6 * torch.finfo(F32).eps, BF16: 1.5 * torch.finfo(BF16).eps}
NAMES = ("out", "dq", "dk", "dv", "drel_bias")
# The largest error of a few hundred numbers is a noisy thing: errors are pooled over fresh inputs.
DRAWS = 2


def make(B, H, Q, T, K, seed, dtype=F32, span=5, layout="plain", bias_dtype=None, magnitude=1):
    """q, k, v, rel_bias and an output gradient; ``layout`` picks the strides."""
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g).to(DEVICE, dtype)
    if layout == "split":  # as the model makes them: (B, n, H, K) transposed
        q, k, v = (r(B, n, H, K).transpose(1, 2) for n in (Q, T, T))
    elif layout == "expanded":  # one row, or one head, for all
        q, k, v = r(1, H, Q, K), r(B, 1, T, K), r(1, 1, T, K)
        q, k, v = (x.expand(B, H, -1, -1) for x in (q, k, v))
    elif layout == "strided":  # every second row and column of something larger
        q, k, v = (r(B, H, 2 * n, 2 * K)[:, :, ::2, ::2] for n in (Q, T, T))
    else:
        q, k, v = (r(B, H, n, K) for n in (Q, T, T))
    rel_bias = None if span is None else (2 * r(H, 2 * span + 1)).to(bias_dtype or dtype)
    do = r(B, H, Q, K)
    if layout == "expanded gradient":
        do = do[..., :1, :1].expand_as(do)
    if magnitude != 1:
        q, rel_bias = magnitude * q, magnitude * rel_bias
    return q, k, v, rel_bias, do


def run(backend, q, k, v, rel_bias, do, dtype=None, **arguments):
    """Output and gradients of one backend, in float64; ``dtype`` computes in another precision."""
    given = [x for x in (q, k, v, rel_bias) if x is not None]
    inputs = [x.detach().to(dtype or x.dtype).requires_grad_() for x in given]
    out = attention(*inputs, backend=backend, **arguments)
    gradients = torch.autograd.grad(out, inputs, do.to(out.dtype))
    return dict(zip(NAMES, [x.detach().double() for x in (out, *gradients)]))


def largest_errors(backend, draws, exact, **arguments):
    errors = {}
    for inputs, truth in zip(draws, exact):
        for name, value in run(backend, *inputs, **arguments).items():
            assert value.isfinite().all(), (backend, name)
            error = float((value - truth[name]).abs().max())
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


def check(*shape, seed, mask={}, scale=1.0, query_offset=0, bias_floor=8, **options):
    """The kernels' largest errors against twice those of PyTorch in the same dtype.

    On a CPU plain operations are a second yardstick: SDPA there computes bfloat16 in float32
    throughout, which no kernel with 16-bit products can match. The outermost entries of the bias
    gradient are sums over everything beyond the span: their floor is ``bias_floor`` times higher.
    """
    arguments = dict(scale=scale, query_offset=query_offset, **mask)
    draws = [make(*shape, seed=seed + 1000 * draw, **options) for draw in range(DRAWS)]
    exact = [run("reference", *inputs, torch.float64, **arguments) for inputs in draws]
    peers = ("sdpa",) if CUDA else ("sdpa", "reference")
    yardsticks = [largest_errors(backend, draws, exact, **arguments) for backend in peers]
    relative = FLOOR[draws[0][0].dtype]
    for name, error in largest_errors("triton", draws, exact, **arguments).items():
        floor = relative * max(float(truth[name].abs().max()) for truth in exact)
        if name == "drel_bias":
            # An entry may be a sum of thousands that cancel: its error goes with theirs, not with it.
            floor = bias_floor * max(floor, relative)
        allowed = max(2 * max(y[name] for y in yardsticks), floor)
        assert error <= allowed, (name, error, yardsticks, floor)


def until(Q, *ends):
    return torch.tensor(ends)[:, None].expand(-1, Q)


def packed(Q):
    """The second row ends in padding."""
    place, (half, quarter) = torch.arange(Q), (Q // 2, Q // 4)
    second = (quarter * (place >= quarter)).where(place < Q - Q // 5, Q)
    return packed_span(torch.stack([half * (place >= half), second]))


BOTH = "padding on both sides"
#: First and last of two batch rows; ``ends(low)`` draws ends that only grow.
KINDS = {
    "dense": lambda Q, T, ends: (None, None),
    "padding": lambda Q, T, ends: block_span(until(Q, 1, max(1, T - 3))),
    BOTH: lambda Q, T, ends: block_span(until(Q, T, max(1, T // 2)), torch.tensor([Q // 3, Q])),
    "causal": lambda Q, T, ends: causal_span(Q, max(0, T - Q)),
    "blocks": lambda Q, T, ends: block_span(ends(1)),
    "prefix": lambda Q, T, ends: block_span(ends(0) * (torch.arange(Q) >= Q // 3)),
    "packed": lambda Q, T, ends: packed(Q),
    "first only": lambda Q, T, ends: (ends(0), None),
    "any": lambda Q, T, ends: (ends(0), ends(0)),
}


def runs(kind, Q, T, seed=0):
    """A mask of a kind, as arguments."""
    g = torch.Generator().manual_seed(seed)
    ends = lambda low: torch.randint(low, T + 1, (2, Q), generator=g).sort(1).values
    span = (x if x is None else x.clamp(max=T).to(DEVICE) for x in KINDS[kind](Q, T, ends))
    return dict(zip(("first", "last"), span))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("span", [7, pytest.param(None, marks=pytest.mark.slow)])
def test_every_mask(kind, span):
    check(2, 1, 50, 55, 16, seed=1, span=span, scale=0.3, mask=runs(kind, 50, 55))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_production_configuration(kind):
    """bfloat16 queries, float32 bias, several blocks of queries, more keys than queries.

    D comes from an output rounded to bfloat16, and PyTorch on a CPU has it unrounded.
    """
    options = dict(dtype=BF16, span=20, bias_dtype=F32, layout="split", scale=0.2, query_offset=9)
    check(2, 1, 150, 200, 32, seed=2, bias_floor=2, mask=runs(kind, 150, 200), **options)


@pytest.mark.parametrize("Q, T", [(1, 1), (1, 40), (40, 1), (33, 65), (64, 32), (3, 2)])
def test_shapes(Q, T):
    check(2, 2, Q, T, 32, seed=Q + T, scale=0.2, mask=runs("any", Q, T))


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("K", [16, 24, 40, 64, 80, 128])
def test_head_widths(K, dtype):
    check(1, 1, 37, 41, K, dtype=dtype, seed=K, scale=K**-0.5, mask=runs("causal", 37, 41))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["split", "expanded", "strided", "expanded gradient"])
def test_strides(layout):
    check(2, 3, 35, 50, 20, seed=5, layout=layout, scale=0.3, mask=runs("any", 35, 50))


SPANS = [(90, 90, 0, 0), (60, 200, 0, 5), (20, 150, 130, 30), (130, 60, 0, 64)]
SPANS += [(40, 40, 0, 500), (60, 60, 240, 5), (60, 60, 2**40, 5)]


@pytest.mark.parametrize("Q, T, offset, span", SPANS)
def test_spans_and_offsets(Q, T, offset, span):
    options = dict(span=span, query_offset=offset, scale=0.3, bias_floor=10)
    check(2, 1, Q, T, 16, seed=span, mask=runs(BOTH, Q, T), **options)


@pytest.mark.parametrize("magnitude", [1e-4, pytest.param(300.0, marks=pytest.mark.slow), 2500.0])
def test_extreme_scores(magnitude):
    """Scores to about ±1e4."""
    check(2, 2, 40, 40, 16, seed=9, magnitude=magnitude, mask=runs("padding", 40, 40))


# --- exact invariants ---------------------------------------------------------------------------
def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in NAMES)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_the_same_bits_twice(dtype):
    n = 2 if CUDA else 1  # the interpreter runs one block after another
    inputs = make(n, n, 90, 90, 16, seed=1, dtype=dtype)
    assert same(*(run("triton", *inputs, **runs("causal", 90, 90)) for _ in range(2)))


def test_more_padding_and_other_keys_change_no_bit():
    q, k, v, rel_bias, do = make(2, 1, 40, 70, 16, seed=2)
    mask = runs("padding", 40, 40)
    expected = run("triton", q, k[:, :, :40], v[:, :, :40], rel_bias, do, **mask)
    k[:, :, 40:], v[:, :, 40:] = float("nan"), float("inf")
    results = run("triton", q, k, v, rel_bias, do, **mask)
    for name in ("dk", "dv"):
        assert not results[name][:, :, 40:].any()
        results[name] = results[name][:, :, :40]
    assert same(results, expected)


@pytest.mark.parametrize("kind", [BOTH, "prefix", "packed"])
def test_nothing_leaks_from_what_nobody_sees(kind):
    q, k, v, rel_bias, do = make(2, 1, 50, 60, 16, seed=3)
    mask = runs(kind, 50, 60, seed=4)
    first, last, place = mask["first"], mask["last"], torch.arange(60, device=DEVICE)
    seen = (place >= (0 if first is None else first[..., None])) & (place < last[..., None])
    empty, unseen = ~seen.any(2), ~seen.any(1)
    assert empty.any() and unseen.any()
    expected = run("triton", q, k, v, rel_bias, do, **mask)
    q, k, v = (x.transpose(1, 2).clone() for x in (q, k, v))
    q[empty], k[unseen], v[unseen] = float("nan"), float("nan"), float("inf")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    results = run("triton", q, k, v, rel_bias, do, **mask)
    assert same(results, expected)
    for name, zero in (("out", empty), ("dq", empty), ("dk", unseen), ("dv", unseen)):
        assert not results[name].transpose(1, 2)[zero].any()


def test_minus_infinity_in_the_bias_hides_keys():
    q, k, v, rel_bias, _ = make(1, 1, 70, 70, 16, seed=8)
    rel_bias[:, :3] = float("-inf")  # all keys 3 or more to the left: whole tiles
    out = attention(q, k, v, rel_bias, backend="triton")
    assert torch.allclose(out, attention(q, k, v, rel_bias, backend="reference"), atol=1e-5)


# --- as a PyTorch operator ----------------------------------------------------------------------
def test_a_frozen_bias_gets_no_gradient():
    q, k, v, rel_bias, do = make(1, 1, 40, 40, 16, seed=9)
    q.requires_grad_()
    [gradient] = torch.autograd.grad(attention(q, k, v, rel_bias, backend="triton"), q, do)
    assert torch.equal(gradient.double(), run("triton", q, k, v, rel_bias, do)["dq"])


def test_one_graph_under_compile():
    q, k, v, rel_bias, do = make(1, 1, 20, 20, 16, seed=3)
    mask = runs("causal", 20, 20)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    inputs = [x.clone().requires_grad_() for x in (q, k, v, rel_bias)]
    out = compiled(*inputs, **mask, backend="triton")
    gradients = torch.autograd.grad(out, inputs, do)
    expected = run("triton", q, k, v, rel_bias, do, **mask)
    assert same(dict(zip(NAMES, (x.double() for x in (out, *gradients)))), expected)


@pytest.mark.parametrize("layout", ["split", "strided"])
def test_registered_operators_are_consistent(layout):
    q, k, v, rel_bias, do = make(2, 2, 9, 11, 16, seed=4, layout=layout)
    mask = runs("any", 9, 11)
    first, last = mask["first"].int(), mask["last"].int()
    with torch.no_grad():
        out, m, r = torch.ops.ases.attention_forward(q, k, v, rel_bias, first, last, 0, 1.0)
    backward = (do, q, k, v, rel_bias, first, last, out, m, r, 0, 1.0, True)
    opcheck, tests = torch.library.opcheck, ("test_schema", "test_faketensor")
    opcheck(torch.ops.ases.attention_backward.default, backward, test_utils=tests)
    inputs = tuple(x.detach().requires_grad_() for x in (q, k, v, rel_bias))
    opcheck(torch.ops.ases.attention_forward.default, (*inputs, first, last, 0, 1.0))


def test_a_second_derivative_is_refused():
    q, k, v, rel_bias, _ = make(1, 1, 8, 8, 16, seed=0)
    q.requires_grad_()
    out = attention(q, k, v, rel_bias, backend="triton")
    [gradient] = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_what_no_kernel_can_do_is_refused(monkeypatch):
    def refused(error, message, width=16, dtype=F32):
        q, k, v, rel_bias, _ = make(1, 1, 4, 4, width, seed=0, dtype=dtype)
        with pytest.raises(error, match=message):
            attention(q, k, v, rel_bias, backend="triton")

    refused(ValueError, "float32 or bfloat16", dtype=torch.float64)
    refused(ValueError, "head width of 8", width=8)
    if not CUDA:
        monkeypatch.setattr(operator, "INTERPRETED", type(operator.INTERPRETED)(False))
        refused(RuntimeError, "needs a CUDA device")


@pytest.mark.slow
def test_the_machine_code():
    """The interpreter takes what the compiler refuses; compiling needs no GPU, but its own process."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).parent / "compile_kernels.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def test_a_kernel_proves_itself_before_it_is_used(capsys):
    kernel, place = operator.triton_attention, torch.device(DEVICE)

    def lying(q, k, v, *others):  # its output is right, the gradient of k is not
        return kernel(q, k + 0.2 * (k - k.detach()), v, *others)

    def raising(*arguments):
        raise RuntimeError("no such\ninstruction")

    with torch.inference_mode():
        assert operator.is_trusted(kernel, F32, place, 16)
        assert operator.is_trusted(kernel, BF16, place, 32)
        assert capsys.readouterr().err == ""
        wrong = {lying: "wrong by 20.0%", raising: "RuntimeError: no such instruction"}
        for bad, message in wrong.items():
            assert not operator.is_trusted(bad, F32, place, 16)
            assert not operator.is_trusted(bad, F32, place, 16)
            note = capsys.readouterr().err  # of the first time
            assert message in note and note.startswith("note: ") and note.count("\n") == 1
