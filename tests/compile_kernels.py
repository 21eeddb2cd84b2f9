"""Compile every variant of the Triton kernels for an NVIDIA GPU of compute capability 9.0; none need be there.

Run without TRITON_INTERPRET. Stops before machine code: types, shapes and control flow are checked by then.
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ases.kernels import attention as kernels

FLOATS = {"scale": "fp32"}
POINTERS = {"lengths_ptr": "*i64", "m_ptr": "*fp32", "l_ptr": "*fp32", "delta_ptr": "*fp32", "band_ptr": "*fp32", "far_ptr": "*fp32"}


def main() -> None:
    target = GPUTarget("cuda", 90, 32)
    options = itertools.product(("fp32", "bf16"), (False, True), (False, True), (False, True))
    compiled = 0
    for dtype, causal, bias, lengths in options:
        for kernel in (kernels._forward_kernel, kernels._query_gradient_kernel, kernels._key_gradient_kernel):
            constants = dict(CAUSAL=causal, HAS_BIAS=bias, HAS_LENGTHS=lengths, BLOCK=32, BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, PRECISION="ieee" if dtype == "fp32" else "tf32")
            names = kernel.arg_names
            constants = {k: v for k, v in constants.items() if k in names}
            signature = {n: "constexpr" if n in constants else POINTERS.get(n, "*fp32" if n == "bias_ptr" else f"*{dtype}") if n.endswith("_ptr") else FLOATS.get(n, "i32") for n in names}
            source = ASTSource(fn=kernel, signature=signature, constexprs={(names.index(k),): v for k, v in constants.items()})
            backend = triton.compiler.make_backend(target)
            context = triton._C.libtriton.ir.context()
            triton._C.libtriton.ir.load_dialects(context)
            backend.load_dialects(context)
            parsed = backend.parse_options({"num_warps": 8, "num_stages": 2})
            source.make_ir(target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context)
            compiled += 1
    print(f"{compiled} compiled")


if __name__ == "__main__":
    main()
