"""Candidate "triton-deterministic": linear layers with one arithmetic for every number of rows (docs/numerics.md, section 1).

cuBLAS chooses an algorithm by the number of rows; `ops/triton/gemm.py` does not, nor do the layers of whole-number weights. All
other Triton ops are row-invariant as they are, so only linear layers are offered here; they are asked for first where deterministic
settings are wanted.
"""

import importlib

from slipstream.ops import triton
from slipstream.ops.triton import padded, tape
from slipstream.ops.types import Declined, LinearKernel, Op

__all__ = ["NAME", "PROFILE", "VERSION", "offer", "padded", "tape"]

NAME = "triton-deterministic"
VERSION = 2
PROFILE = f"{NAME}.{VERSION}"


def offer(op: str, device: str) -> Op | LinearKernel | Declined:
    """The LinearKernel that serves `op` on `device`, or Declined with the reason."""
    fast = triton.offer(op, device)
    if isinstance(fast, Declined):
        return fast
    if not op.startswith("linear_"):
        return Declined("offers linear layers only")
    return fast if fast.invariant else fast.with_product(importlib.import_module("slipstream.ops.triton.gemm").matmul)
