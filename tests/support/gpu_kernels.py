"""The GPU kernels as a test runs them: compiled where CUDA is, and on CPU tensors through Triton's interpreter.

Triton decides when a kernel is defined whether it will be interpreted. So the interpreter gets a copy of the module of
its own, and the one that training imports is compiled as ever.
"""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch

import fedmrn.torch
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.rng import Stream

MODULE = Path(fedmrn.torch.__file__).parent / "fast" / "gpu.py"
WORDS = Path(__file__).with_name("words_kernel.py")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
BOTH = [
    pytest.param("cpu", id="interpreter", marks=needs_triton),
    pytest.param("cuda", id="cuda", marks=[needs_triton, needs_cuda]),
]


@cache
def kernels(device: str) -> ModuleType:
    """The kernels for tensors of a device."""
    if device == "cuda":
        return importlib.import_module("fedmrn.torch.fast.gpu")
    importlib.import_module("triton")  # before: its own functions are to be compiled as well
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        module = _loaded("interpreted_gpu", MODULE)
    if not _rounds_once(module):
        pytest.skip("the interpreter of this Triton rounds a fused multiply-add twice")
    return module


def _rounds_once(module: ModuleType) -> bool:
    """Whether u - rate * g is rounded once: (1 + 2^-12)^2 - 1 has a last term that would be lost."""
    u, one = torch.full((1,), -1.0), torch.ones(1)
    near = 1.0 + 2.0**-12
    draw = module.pack_draws([Stream(0, 0)], [0.0])[0]
    module.write_weights(u, one, one, draw, MaskType.BINARY, one.clone(), gradient=near * one, rate=-near)
    return u.item() == 2.0**-11 + 2.0**-24


@cache
def write_words(device: str) -> ModuleType:
    """A module whose `write` writes a block of the random words of `kernels(device)`."""
    philox = kernels(device)._philox
    with mock.patch.dict(os.environ, TRITON_INTERPRET="01"[device == "cpu"]):
        return _loaded(f"words_kernel_{device}", WORDS, philox=philox)


def _loaded(name: str, path: Path, **names: object) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
