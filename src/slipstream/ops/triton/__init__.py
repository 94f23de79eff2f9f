"""Candidate "triton": plain Triton kernels for one CUDA device, linear layers by torch or by kernels of their own.

    norm rope attention gated elementwise experts sample logprobs embed move rounds linear    one file per family of kernels
    mixture      experts of a layer all at once
    gemm packed widened fp8 cublas  the products that a linear layer may use; packing: how weights of few bits lie; bits: their codes
                 as what tensor cores multiply
    attend       the kernel of attention; joined: the merge of parts; together: of rows that share keys; mixed: of few rows among many
    elementary   functions that several kernels use
    launch       one compiled form of a kernel; checks of tensors
    tuned        tables of fast settings, as data
    graph        runs of ops as CUDA graphs
    compile      ahead-of-time compilation to sm_90 and what each kernel takes of the machine; needs no GPU
    interpreter  repairs of Triton's interpreter, by which the kernels are tested without a GPU

Owns the answer to "who serves this op". Must not know any kernel's arithmetic, and does not import the top-level package
`triton` (which is not this one) until an op is asked for on a CUDA device.

Its arithmetic is a profile of its own (docs/numerics.md, section 5 has the structure): but for attention one compiled form per model
shape and storage type serves every number of rows, mul and add are fused only where written, and no kernel is given the number of
rows, so a row's bits do not depend on its neighbours. Linear layers of plain weights, and of others where rows are many, are cuBLAS,
which chooses by the number of rows, and attention has a form for few rows and one for many: this profile is fast, not deterministic.
"""

import importlib
import importlib.util
from typing import Any

from slipstream.ops.types import OPS, ROUND_OPS, Declined, ExpertsKernel, GateUpKernel, LinearKernel, Op

NAME = "triton"
VERSION = 4
PROFILE = f"{NAME}.{VERSION}"

_FILES = {op: op for op in OPS} | {  # op -> its file
    **{"rope_write": "rope", "layer_norm": "norm", "norm_slices": "norm"},
    **dict.fromkeys(("attention_softcap", "attention_sinks"), "attention"),
    **dict.fromkeys(("gated_gelu", "gated_gelu_tanh", "gated_clamped"), "gated"),
    **dict.fromkeys(("gelu", "gelu_tanh", "add", "scale", "softcap", "gate_rows", "spread"), "elementwise"),
    **dict.fromkeys(("route", "routed"), "experts"),
    **dict.fromkeys(ROUND_OPS, "rounds"),
}


def tape(device: str) -> Any:
    """A tape that captures the ops of this candidate for steps of one size; None without a CUDA device."""
    return None if device == "cpu" else importlib.import_module(f"{__name__}.graph").Tape()


def padded(rows: int) -> int:
    """Rows that a step of so many is run with, so that few captures serve all."""
    return importlib.import_module(f"{__name__}.graph").padded(rows)


def shares() -> int:
    """Most rows of a step in which attention reads keys once that several requests share; 0: it never does."""
    attention = importlib.import_module(f"{__name__}.attention")
    return attention.BY_TILE - 1 if attention.sharing() else 0


def mixes() -> int:
    """Least rows of a step in which attention wants to know the rows of requests that have few; 0: it never does."""
    attention = importlib.import_module(f"{__name__}.attention")
    return attention.BY_TILE if attention.mixing() else 0


def offer(op: str, device: str) -> Op | LinearKernel | ExpertsKernel | GateUpKernel | Declined:
    """What serves `op` on `device`: a callable, of "linear_*", "experts_*" and "gate_up_*" the kernel of that sort; or Declined."""
    if device.partition(":")[0] != "cuda":
        return Declined(f"runs on cuda, not on {device}")
    if importlib.util.find_spec("triton") is None:
        return Declined("triton is not installed")
    if op in _FILES:
        return getattr(importlib.import_module(f"{__name__}.{_FILES[op]}"), op)
    if op.startswith("experts_"):
        return importlib.import_module(f"{__name__}.mixture").KERNELS.get(op) or Declined(f"has no kernel for {op}")
    if op.startswith("gate_up_"):
        return importlib.import_module(f"{__name__}.linear").gate_up(op)
    linear = importlib.import_module(f"{__name__}.linear").KERNELS
    return linear.get(op) or Declined(f"has no kernel for {op}")
