"""Candidate "cpu": the C++ kernels of slipstream._native, checked and called with addresses.

Must not know the arithmetic (csrc/, docs/numerics.md). Every function writes into tensors of the caller; arguments are described in
ops/types.py and ops/reference. A tensor that does not fit raises InputError naming it; an index out of range raises IndexError
from the kernel.
"""

from typing import Any

from slipstream.base import native
from slipstream.ops.cpu.cached import attention, attention_sinks, attention_softcap, move, rope_write
from slipstream.ops.cpu.experts import gate_rows, gated_clamped, route, routed
from slipstream.ops.cpu.linear import Linear
from slipstream.ops.cpu.rounds import lay_out, walk
from slipstream.ops.cpu.rows import (
    add,
    embed,
    gated,
    gated_gelu,
    gated_gelu_tanh,
    gelu,
    gelu_tanh,
    layer_norm,
    norm,
    norm_slices,
    scale,
    softcap,
    spread,
)  # fmt: skip
from slipstream.ops.cpu.sampling import logprobs, sample
from slipstream.ops.types import GPU_ONLY, LINEAR_OPS, Declined, gpu_only, of_linear_op

NAME = "cpu"
VERSION = 2
_native = native.module
PROFILE = f"cpu-{_native.isa()}.{VERSION}" if _native else ""  # every instruction set gives the same bits; the name tells the speed

_OPS = {
    function.__name__: function
    for function in (
        *(embed, norm, rope_write, attention, gated, sample, logprobs, move, lay_out, walk),
        *(layer_norm, norm_slices, attention_softcap, attention_sinks, gated_gelu, gated_gelu_tanh, gelu, gelu_tanh, add, scale, softcap),
        *(route, routed, gate_rows, gated_clamped, spread),
    )
}


def tape(device: str) -> Any:
    """A tape that records the ops of this candidate."""
    return _native.Tape()


def offer(op: str, device: str) -> Any:
    """The callable (linear ops: the LinearKernel) that serves `op` on `device`, or Declined with the reason."""
    if device != "cpu":
        return Declined(f"runs on cpu, not on {device}")
    if _native is None:
        return Declined(f"no native module: {native.reason}")
    if op in _OPS:
        return _OPS[op]
    if op not in LINEAR_OPS:
        return Declined(f"has no kernel for {op}")
    if gpu_only(op):
        way = "take quant='int8' or 'int4', or" if of_linear_op(op)[0] in GPU_ONLY else "leave activations='fp8' out, or take"
        return Declined(f"CPUs do not multiply floats of 8 or 6 bits; {way} device='cuda'")
    return Linear(*of_linear_op(op))
