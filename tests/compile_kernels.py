"""Compile the kernels in their real configurations for compute capability 9.0; no GPU is needed.

Asserts what the machine code must be: the matrix instructions of that GPU, no spilled registers,
shared memory that fits. Prints a table. Run without TRITON_INTERPRET.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ases.kernels import attention as kernels
from ases.kernels.operator import tiles

TARGET = GPUTarget("cuda", 90, 32)
# What one block of threads may use there.
SHARED_LIMIT = 227 * 1024
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ALIGNED = [["tt.divisibility", 16]]
KERNELS = {
    "forward": (kernels.forward_kernel, ("q", "k", "v", "out")),
    "queries": (kernels.query_gradient_kernel, ("q", "k", "v", "do", "out", "dq")),
    "keys": (kernels.key_gradient_kernel, ("q", "k", "v", "do", "dk", "dv")),
}


def compile_kernel(name: str, width: int, n_queries: int, bias: bool, spans: bool):
    """The compiled kernel, with arguments as the model gives them: aligned, bfloat16, float32 bias."""
    kernel, tensors = KERNELS[name]
    tile = dict(tiles(torch.bfloat16, width, n_queries)[name])
    options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
    constants = tile | dict(HAS_BIAS=bias, GRADIENT=bias, HAS_FIRST=spans, HAS_LAST=spans)
    constants |= dict(WIDTH=width, BLOCK_K=width, PRECISION="tf32")
    types = {"spans": kernels.SpanEnds("*i32", "i32", "i32", "*i32", "i32", "i32")}
    types |= {"bias": kernels.Bias("*fp32", "i32", "i32"), "scale": "fp32"}
    types |= {"stats": kernels.Stats("*fp32", "*fp32", "*fp32")}
    types |= dict.fromkeys(tensors, kernels.Rows("*bf16", "i32", "i32", "i32"))
    types |= dict.fromkeys(constants, "constexpr")
    signature, constexprs, attributes = {}, {}, {}
    for place, argument in enumerate(kernel.arg_names):
        pointer = argument.endswith("_ptr")
        signature[argument] = types.get(argument, "*fp32" if pointer else "i32")
        if argument in constants:
            constexprs[(place,)] = constants[argument]
        elif argument in tensors:
            attributes |= {(place, part): ALIGNED for part in range(4)}
        elif pointer:
            attributes[(place,)] = ALIGNED
    source = ASTSource(kernel, signature, constexprs, attributes)
    return triton.compile(source, target=TARGET, options=options)


def machine_code(compiled) -> dict:
    """Counts from the cubin: instructions, matrix instructions, registers, spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "-sass", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)", text)
    count = lambda pattern: sum(bool(re.match(pattern, line)) for line in lines)
    return {
        "registers": int(re.search(r"REG:(\d+)", text)[1]),
        "stack": int(re.search(r"STACK:(\d+)", text)[1]),
        "spills": count(r"(STL|LDL)\b"),
        "shared": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps,
        "instructions": len(lines),
        "wgmma": count("HGMMA"),
        "mma": count("HMMA"),
    }


#: Head width, bias and spans for 1,024 queries; one query needs the forward kernel only.
COMMON = [(64, True, True), (64, False, True), (64, True, False), (128, True, True)]
COMMON += [(32, True, True)]
CONFIGURATIONS = [(name, width, 1024, *parts) for width, *parts in COMMON for name in KERNELS]
CONFIGURATIONS += [("forward", 64, 1, True, True)]


def main() -> None:
    for number, (name, width, n_queries, *parts) in enumerate(CONFIGURATIONS):
        facts = machine_code(compile_kernel(name, width, n_queries, *parts))
        if number == 0:
            print("kernel", "width", "queries", "bias", "spans", *facts, sep="\t")
        print(name, width, n_queries, *parts, *facts.values(), sep="\t", flush=True)
        assert facts["spills"] == facts["stack"] == 0, "registers are spilled"
        assert facts["shared"] <= SHARED_LIMIT, "too much shared memory"
        assert facts["warps"] == (8 if name == "keys" and width > 64 else 4)
        if n_queries > 16:
            assert facts["wgmma"] > 0 and facts["mma"] == 0, "not the instruction of 9.0"


if __name__ == "__main__":
    main()
