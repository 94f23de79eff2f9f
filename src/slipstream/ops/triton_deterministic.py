"""Candidate "triton-deterministic": linear layers and attention with one arithmetic for every number of rows (docs/numerics.md, section 1).

cuBLAS chooses an algorithm by the number of rows; `ops/triton/gemm.py` does not, nor does `ops/triton/packed.py`. Fast
attention has a form for few rows and one for many; here one form serves all. The other Triton ops are row-invariant as they are, so
they are not offered here; this candidate is asked first where deterministic settings are wanted.
"""

import importlib
from functools import partial

from slipstream.ops import triton
from slipstream.ops.triton import mixes, padded, shares, tape
from slipstream.ops.types import Declined, LinearKernel, Op

__all__ = ["NAME", "PROFILE", "VERSION", "mixes", "offer", "padded", "shares", "tape"]

NAME = "triton-deterministic"
VERSION = 4
PROFILE = f"{NAME}.{VERSION}"
ATTENTION = ("attention", "attention_softcap", "attention_sinks")


def offer(op: str, device: str) -> Op | LinearKernel | Declined:
    """The callable (linear ops: the LinearKernel) that serves `op` on `device`, or Declined with the reason."""
    fast = triton.offer(op, device)
    if isinstance(fast, Declined):
        return fast
    if op in ATTENTION:
        return partial(fast, forms=importlib.import_module("slipstream.ops.triton.attention").ONE)
    if not op.startswith(("linear_", "experts_", "gate_up_")):
        return Declined("offers linear layers and attention only")
    return fast.deterministic()
