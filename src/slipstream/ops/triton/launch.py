"""Launching: one compiled form of a kernel, and the checks before a tensor's address leaves Python.

Owns compile options and checks. Must not know what any kernel computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from slipstream.base.errors import BackendError, InputError
from slipstream.ops.triton.chain import chained
from slipstream.ops.types import KV

if triton.knobs.runtime.interpret:  # before any kernel runs; where kernels are compiled, the interpreter is not even imported
    from slipstream.ops.triton import interpreter

    interpreter.repair()

FLOATS = (torch.float32, torch.bfloat16)
NARROW_FROM = (8, 9)  # compute capability from which on GPUs know e4m3
ALIGNMENT = 16  # bytes; Triton compiles another form of a kernel, with other layouts and sums, where an address is not a multiple


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of a kernel: it must follow from the model's shape and storage types, never from the number of rows.

    Multiplications and additions are fused only where a kernel says `tl.fma`, so equal source gives equal bits in every form.

    Attributes:
        kernel: the `triton.jit` function.
        constants: its compile-time arguments.
        types: its other arguments, in order, as Triton names types: "*fp32", "*bf16", "i32", "fp32".
        warps: threads of a program / 32.
        stages: depth of software pipelining; 1 is none.
        registers: most of them per thread, so that more programs fit; 0 leaves it to the compiler.
    """

    kernel: Any
    constants: dict[str, Any] = field(hash=False)
    types: tuple[str, ...]
    warps: int = 4
    stages: int = 1
    registers: int = 0

    def launch(self, grid: tuple[int, ...], *arguments: Tensor | int | float) -> None:
        """Runs `grid` programs; none if the grid is empty."""
        if all(grid):
            self.kernel[grid](*arguments, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        options = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}
        options |= {"maxnreg": self.registers} if self.registers else {}
        return options | ({"launch_pdl": True} if chained() else {})


@cache
def has_groups(device: torch.device) -> bool:
    """Whether four warps multiply together there (wgmma)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def fits(op: str, name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """`tensor`, if it is contiguous, of this type and shape, and aligned; InputError otherwise."""
    if tensor.shape != tuple(shape) or tensor.dtype is not dtype or not tensor.is_contiguous():
        layout = "" if tensor.is_contiguous() else ", not contiguous"
        raise InputError(
            f"{op}: {name} must be a contiguous tensor {list(shape)} of {dtype}; found {list(tensor.shape)} of {tensor.dtype}{layout}"
        )
    if tensor.data_ptr() % ALIGNMENT:
        raise InputError(f"{op}: {name} must begin at a multiple of {ALIGNMENT} bytes; found {tensor.data_ptr():#x}")
    return tensor


def row_facts(op: str, name: str, tensor: Tensor, rows: int, dtype: torch.dtype = torch.int32) -> Tensor:
    """`tensor` [rows], if it is contiguous and of this type. Kernels read such tensors number by number: no alignment is asked for."""
    if tensor.shape != (rows,) or tensor.dtype is not dtype or not tensor.is_contiguous():
        raise InputError(f"{op}: {name} must be a contiguous tensor [{rows}] of {dtype}; found {list(tensor.shape)} of {tensor.dtype}")
    return tensor


def type_name(op: str, name: str, tensor: Tensor) -> str:
    """How Triton calls a pointer to `tensor`, fp32 or bf16."""
    if tensor.dtype not in FLOATS:
        raise InputError(f"{op}: {name} must be fp32 or bf16; found {tensor.dtype}")
    return "*fp32" if tensor.dtype is torch.float32 else "*bf16"


def cache_type(op: str, name: str, cached: Tensor) -> str:
    """How Triton calls a pointer to a cache or a pool, fp32, bf16 or e4m3.

    Raises:
        InputError: another type, or heads that e4m3 does not take.
        BackendError: the GPU does not know e4m3.
    """
    if cached.dtype is not torch.float8_e4m3fn:
        return type_name(op, name, cached)
    if cached.shape[-1] % 4:
        raise InputError(f"{op}: {name}: head_dim must be a multiple of 4 for kv='fp8'; take kv='bf16'")
    if cached.is_cuda and torch.cuda.get_device_capability(cached.device) < NARROW_FROM:
        raise BackendError(f"{op}: kv='fp8' needs a GPU of compute capability 8.9 or later (Ada, Hopper); take kv='bf16'")
    return "*fp8e4nv"


def fitting_cache(op: str, kv: KV) -> str:
    """`cache_type` of a layer's keys and values; InputError unless they fit each other."""
    kind = cache_type(op, "kv.keys", kv.keys)
    fits(op, "kv.keys", kv.keys, kv.keys.shape, kv.keys.dtype)
    fits(op, "kv.values", kv.values, kv.keys.shape, kv.keys.dtype)
    return kind


def power_of_two(n: int, least: int = 1) -> int:
    """The least power of two that is at least `n` and `least`."""
    return max(least, 1 << max(0, n - 1).bit_length())
