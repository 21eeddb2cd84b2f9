"""Speed of attention over runs on a CUDA GPU: `python tests/bench_attention.py --out bench.json`.

bfloat16, H = 8, K = 64, batch × length constant; dense, ragged, causal, block-causal and packed
rows; forward, and forward with backward. Ours against PyTorch's SDPA with bias and mask as a matrix,
FlexAttention with the same bias and a block mask, and, where there is no mask but causality, SDPA
without bias on FlashAttention, which is the ceiling. Wall time between device events, and the time
of a replayed CUDA graph, which leaves out what the CPU does; the peak of memory beyond the inputs.
TFLOP/s count the pairs that are really seen. Nothing is asserted: this file measures.
"""

import statistics
import sys

import torch
from bench import Report, arguments
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ases.attention import attention, bias_matrix, block_span, causal_span, packed_span, seen_keys

H, K, TOKENS, SPAN, BLOCK = 8, 64, 32768, 128, 64
KINDS = ("dense", "ragged", "causal", "block-causal", "packed")


def make_runs(kind: str, B: int, n: int):
    place = torch.arange(n, device="cuda").expand(B, -1)
    if kind == "dense":
        return None, None
    if kind == "ragged":
        lengths = torch.linspace(n // 4, n, B, device="cuda").int()
        return block_span(lengths[:, None].expand(-1, n), lengths)
    if kind == "causal":
        return causal_span(n, device="cuda")
    if kind == "block-causal":
        return block_span(((place // BLOCK + 1) * BLOCK).clamp(max=n))
    return packed_span(place // (4 * BLOCK) * (4 * BLOCK))


def both_ends(first, last, n: int):
    first = torch.zeros(1, n, dtype=torch.int32, device="cuda") if first is None else first
    return first, torch.full((1, n), n, device="cuda") if last is None else last


def measured(function, repeats: int) -> dict:
    """Median wall time and CUDA-graph time of a call in ms, and its peak memory in MiB."""
    timed(function, 5)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ms = timed(function, repeats)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    result = {"ms": round(ms, 4), "peak_mib": round(peak, 1)}
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        result["graph_ms"] = round(timed(graph.replay, repeats), 4)
    except Exception as error:  # not everything can be captured
        result["graph_error"] = type(error).__name__
    return result


def timed(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def contenders(kind: str, B: int, n: int, first, last):
    """Name → function of q, k, v and the bias vector."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    seen = seen_keys(first, last, n)

    def ours(q, k, v, bias):
        return attention(q, k, v, bias, first=first, last=last, scale=K**-0.5, backend="triton")

    def sdpa_with_bias(q, k, v, bias):
        mask = bias_matrix(bias, n, n).to(q.dtype)[None]
        if seen is not None:
            mask = mask.masked_fill(~seen, torch.finfo(q.dtype).min)
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            return scaled_dot_product_attention(q, k, v, attn_mask=mask)

    low, high = (end.expand(B, -1).contiguous() for end in both_ends(first, last, n))
    sees = lambda b, h, i, j: (j >= low[b, i]) & (j < high[b, i])
    mask = create_block_mask(sees, B, None, n, n, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)

    def flex(q, k, v, bias):
        def add(score, b, h, i, j):
            return score + bias[h, (j - i).clamp(-SPAN, SPAN) + SPAN]

        return compiled(q, k, v, score_mod=add, block_mask=mask)

    def flash(q, k, v, bias):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=kind == "causal")

    backends = {"ours": ours, "SDPA with bias (efficient)": sdpa_with_bias, "FlexAttention": flex}
    return backends | ({"SDPA, no bias (flash)": flash} if kind in ("dense", "causal") else {})


def job(kind: str, n: int, repeats: int):
    """Rows of the table for one kind of mask and one length."""
    B = max(1, TOKENS // n)
    normal = lambda *shape, **options: torch.randn(*shape, device="cuda", **options)
    *tensors, do = (normal(B, n, H, K, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4))
    tensors.append(normal(H, 2 * SPAN + 1))
    first, last = make_runs(kind, B, n)
    low, high = both_ends(first, last, n)
    flops = 4 * H * K * int((high - low).clamp(min=0).expand(B, -1).sum())
    for name, function in contenders(kind, B, n, first, last).items():
        for passes, work in (("forward", flops), ("forward+backward", 3.5 * flops)):
            inputs = [x.detach().requires_grad_(passes != "forward") for x in tensors]

            def call(function=function, inputs=inputs, passes=passes, name=name):
                out = function(*inputs)
                if passes != "forward":
                    torch.autograd.grad(out, inputs[:3] if "no bias" in name else inputs, do)

            row = {"kind": kind, "length": n, "batch": B, "who": name, "passes": passes}
            try:
                row |= measured(call, repeats)
                row["tflops"] = round(work / row["ms"] / 1e9, 1)
            except Exception as error:  # a contender that cannot run a shape is a result
                row["error"] = f"{type(error).__name__}: {str(error)[:120]}"
            yield row
            torch.cuda.empty_cache()


def main() -> None:
    options = arguments(__doc__, rounds=30, lengths=[128, 256, 512, 1024, 2048, 4096])
    if not torch.cuda.is_available():
        sys.exit("error: no CUDA device; expected one, for this measures a GPU")
    report = Report(options)
    for kind in KINDS:
        for n in options.lengths:
            for row in job(kind, n, options.rounds):
                report.rows.append(row)
                print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    report.write()


if __name__ == "__main__":
    main()
