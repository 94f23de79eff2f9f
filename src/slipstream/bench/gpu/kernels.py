"""Triton kernels that only measure: nothing, reading, copying. Owns them and their launches; part of no model."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192  # numbers of 4 bytes per program
WARPS = 8


@triton.jit
def _nothing(x):
    pass


@triton.jit
def _dependent(x):
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _read(x, out, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    tl.store(out + tl.program_id(0), tl.sum(tl.load(x + place), axis=0))


@triton.jit
def _copy(x, out, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    tl.store(out + place, tl.load(x + place))


def nothing(x: Tensor) -> None:
    """A kernel of one program that does nothing."""
    _nothing[(1,)](x, num_warps=1)


def dependent(x: Tensor) -> None:
    """The same, begun before the kernel in front has ended and waiting for it (programmatic dependent launch); not in the interpreter."""
    _dependent[(1,)](x, num_warps=1, launch_pdl=True)


def read(x: Tensor, out: Tensor) -> None:
    """Reads x [n] fp32, n a multiple of BLOCK; out [n / BLOCK] gets sums, so that nothing is left out by a compiler."""
    _read[(x.numel() // BLOCK,)](x, out, block=BLOCK, num_warps=WARPS)


def copy(x: Tensor, out: Tensor) -> None:
    """out = x, both [n] fp32, n a multiple of BLOCK."""
    _copy[(x.numel() // BLOCK,)](x, out, block=BLOCK, num_warps=WARPS)


def noise(size: int, device: str) -> Tensor:
    """Random fp32 of at least `size` bytes, a multiple of BLOCK numbers: data that no memory compresses."""
    return torch.rand(max(1, -(-size // (4 * BLOCK))) * BLOCK, device=device)
