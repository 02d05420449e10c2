"""What a compiler could do wrong with the GPU kernels: contract, approximate a division, flush small numbers to zero.

It is looked for in the code that Triton makes for a device, which takes no device to make.
"""

import re
from collections import Counter
from itertools import product

import pytest
from gpu_kernels import kernels, needs_triton

from fedmrn.numerics.noise import Law

pytestmark = needs_triton


def instructions(name: str, signature: str, settings: dict[str, object]) -> Counter[str]:
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    module = kernels("cuda")
    kernel = getattr(module, name)
    types = dict(zip(kernel.arg_names, signature.split() + ["constexpr"] * len(settings), strict=True))
    made = compiler.compile(
        compiler.ASTSource(kernel, types, settings),
        target=backends.GPUTarget("cuda", 80, 32),
        options=module._EXACT,
    )
    ptx = made.asm["ptx"]
    assert ".ftz" not in ptx, "subnormal numbers are flushed"
    assert ".approx" not in ptx
    found = re.findall(r"^\s*(?:@%p\d+ )?([a-z]+(?:\.[a-z0-9_]+)+)", ptx, re.MULTILINE)
    return Counter(op for op in found if op.endswith("f32") or ".f32." in op)


@pytest.mark.parametrize(("move", "signed", "stochastic"), list(product([True, False], repeat=3)))
def test_weights_round_as_written(move: bool, signed: bool, stochastic: bool) -> None:
    settings = {"MOVE": move, "SIGNED": signed, "SM": stochastic}
    signature = "*fp32 *fp32 fp32 *fp32 *fp32 *i32 *fp32 i64 i32"
    found = instructions("_weights", signature, settings)
    elements = found["div.rn.f32"]
    assert elements == 8  # four planes of 256 words on 128 threads
    assert found["fma.rn.f32"] == (elements if move else 0)
    # Of every element the base is added to a codeword and to a clipped u; and of a signed mask 1 to u / n.
    assert found["add.rn.f32"] == elements * (3 if signed else 2)
    assert found["mul.rn.f32"] == elements * (3 if signed else 2)
    # Some Tritons write -n as 0 - n, and of binary masks the smaller and larger of n and 0 as min and max: the same for
    # noise, which is never 0 or NaN.
    # u = moved - base is a subtraction of its own, contracted with nothing.
    assert found["sub.rn.f32"] in ((elements, 2 * elements) if signed else (elements,))
    assert found["min.f32"] == found["max.f32"]
    assert found["min.f32"] in ((0,) if signed else (0, elements))
    exact = {"neg", "sub", "setp", "selp", "min", "max", "cvt"}
    assert {op.split(".")[0] for op in found} <= {"div", "fma", "add", "mul"} | exact


@pytest.mark.parametrize("law", list(Law))
def test_noise_rounds_as_written(law: Law) -> None:
    found = instructions("_noise", "*fp32 *i32 *fp32 fp32 i64 i32", {"LAW": int(law)})
    products = {Law.UNIFORM: 8 + 1, Law.GAUSSIAN: 16, Law.BERNOULLI: 8}
    assert found["mul.rn.f32"] == products[law]
    assert {op.split(".")[0] for op in found} <= {"mul", "cvt"}
