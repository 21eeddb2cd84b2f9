"""Speed of attention with a relative position bias on a CUDA GPU: `python tests/bench_attention.py --out bench.json`.

bfloat16, H = 8, K = 64, batch × length constant, as encoder, causal decoder and cross-attention; forward, and forward
with backward. Ours against PyTorch's SDPA with the bias as a matrix (its gradient included), FlexAttention with the
learned table, and SDPA without any bias, FlashAttention's own ground, as the ceiling. Times are medians between
device events; memory is the peak beyond the inputs. ``--model`` adds the training step of whole models against
transformers. Nothing is asserted: this file measures.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from ases.attention import attention, toeplitz
from ases.model import EncoderDecoder, ModelConfig, relative_position_bucket

H, K, TOKENS, SPAN = 8, 64, 32768, 128


def milliseconds(function, repeats: int = 30) -> tuple[float, float]:
    """Median time of a call, and the peak memory beyond what was there before, in MiB."""
    for _ in range(5):
        function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), (torch.cuda.max_memory_allocated() - before) / 2**20


def contenders(kind: str, S: int):
    """(name → function of q, k, v and the table (32, H)) for one kind of attention at length S."""
    causal = kind == "causal"
    difference = torch.arange(2 * S - 1, device="cuda") - (S - 1)
    bucket = relative_position_bucket(difference, not causal, 32, SPAN)
    vector = lambda table: table.float()[bucket].T.contiguous()  # (H, 2S − 1)

    def ours(q, k, v, table):
        return attention(q, k, v, None if kind == "cross" else vector(table), causal=causal, scale=K**-0.5, bias_span=SPAN, backend="triton")

    def sdpa_with_bias(q, k, v, table):
        bias = toeplitz(vector(table).to(q.dtype), S)
        if causal:
            bias = bias.masked_fill(torch.ones(S, S, dtype=torch.bool, device="cuda").triu(1), float("-inf"))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])

    def flash_without_bias(q, k, v, table):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    found = {"ours": ours, "flash, no bias": flash_without_bias}
    if kind != "cross":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        compiled = torch.compile(flex_attention, dynamic=False)
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, S, S, device="cuda") if causal else None

        def flex(q, k, v, table):
            flat = vector(table)
            return compiled(q, k, v, score_mod=lambda score, b, h, i, j: score + flat[h, j - i + S - 1], block_mask=mask)

        found |= {"SDPA with bias": sdpa_with_bias, "FlexAttention": flex}
    return found


def bench_attention(lengths: list[int]) -> list[dict]:
    rows = []
    for kind in ("encoder", "causal", "cross"):
        for S in lengths:
            B = max(1, TOKENS // S)
            q, k, v, do = (torch.randn(B, S, H, K, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(4))
            table = torch.randn(32, H, device="cuda")
            flops = 4 * B * H * S * S * K / (2 if kind == "causal" else 1)
            for name, function in contenders(kind, S).items():
                for passes in ("forward", "forward+backward"):
                    inputs = [x.detach().requires_grad_(passes != "forward") for x in (q, k, v, table)]

                    def call():
                        out = function(*inputs)
                        if passes != "forward":
                            torch.autograd.grad(out, inputs[:3] if kind == "cross" or "no bias" in name else inputs, do)

                    row = {"kind": kind, "length": S, "batch": B, "contender": name, "passes": passes}
                    try:
                        time, memory = milliseconds(call)
                        row |= {"ms": round(time, 4), "tflops": round(flops * (1 if passes == "forward" else 3.5) / time / 1e9, 1), "peak_mib": round(memory, 1)}
                    except Exception as error:  # a contender that cannot run a shape is a result, too
                        row |= {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"}
                    rows.append(row)
                    print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                    torch.cuda.empty_cache()
    return rows


def bench_models() -> list[dict]:
    """One training step, batch 64, 512 source and 128 target tokens, bfloat16: ours against transformers with SDPA."""
    from transformers import T5Config, T5ForConditionalGeneration

    rows = []
    shapes = {"Flan-T5-small": dict(d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6),
              "Flan-T5-base": dict(d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12)}
    source = torch.randint(3, 32000, (64, 512), device="cuda")
    target = torch.randint(3, 32000, (64, 128), device="cuda")
    lengths = torch.full((64,), 512, device="cuda")
    for name, shape in shapes.items():
        model = EncoderDecoder(ModelConfig(vocab_size=32128, dropout_rate=0.0, scale_scores=False, **shape)).cuda()
        peer = T5ForConditionalGeneration(T5Config(vocab_size=32128, dropout_rate=0.0, feed_forward_proj="gated-gelu", tie_word_embeddings=False, attn_implementation="sdpa", **shape)).cuda()
        for who, module, loss in (("ours", model, lambda: model.loss_sum(source, lengths, target) / target.numel()), ("transformers", peer, lambda: peer(input_ids=source, labels=target).loss)):
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

            def step():
                with torch.autocast("cuda", torch.bfloat16):
                    value = loss()
                value.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            time, memory = milliseconds(step, repeats=10)
            rows.append({"model": name, "who": who, "ms": round(time, 2), "peak_mib": round(memory, 1)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--model", action="store_true", help="measure training steps of whole models too (needs transformers)")
    parser.add_argument("--out", type=Path, default=None, help="write the figures as JSON")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: no CUDA device; expected one, for this measures a GPU")
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "attention": bench_attention(args.lengths)}
    if args.model:
        result["training_step"] = bench_models()
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
