"""A layer of whole-number weights as rows of bf16 in memory. Owns the kernel (Gluon); weights mean what folded.py says.

A thread writes what its codes mean where it belongs, four inputs at a time, and nothing goes through shared memory.
"""

from functools import cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.folded import fetch, meant
from slipstream.ops.triton.launch import Variant, fits
from slipstream.ops.triton.packed import meaning, types
from slipstream.ops.triton.packing import OUTPUTS, STEP, Form, Packed

WARPS, DEPTH = 4, 128  # of a program, with 32 outputs each; inputs


@gluon.jit(do_not_specialize=["first", "units_n", "units_k"])
def _unpack(
    codes, scale, least, wide, wide_least, out, first, units_n, units_k,
    bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, wide_group: gl.constexpr, block: gl.constexpr,
    warps: gl.constexpr, depth: gl.constexpr,
):  # fmt: skip
    at, output = gl.program_id(0) * depth, gl.program_id(1) * (warps * 32)
    n, k = units_n * 128, units_k * 128
    taken = fetch(
        codes, scale, least, wide, wide_least, first + output, at, k, n, warps, 2, depth, group, kind, wide_group, block
    )  # fmt: skip
    await_turn()
    for number in gl.static_range(depth // 16):
        value = meant(taken, number * 16, warps, 2, depth, bits, group, kind, middle, wide_group, block)
        value = value.reshape([warps * 32, 2, 4, 2]).permute([0, 2, 1, 3]).reshape([warps * 32, 16])
        index = gl.arange(0, warps * 32, layout=gl.SliceLayout(1, value.type.layout))
        tile = index // 16
        row = gl.expand_dims(output + (tile % warps * 2 + tile // warps) * 16 + index % 16, 1)
        column = gl.expand_dims(gl.arange(0, 16, layout=gl.SliceLayout(0, value.type.layout)), 0)
        gl.store(out + row * k + (at + number * 16) + column, value)


@cache
def variant(form: Form) -> Variant:
    """The form for all layers of such weights."""
    constants = {**meaning(form), "warps": WARPS, "depth": DEPTH}
    return Variant(_unpack, constants, (*types(form), "*bf16", "i32", "i32", "i32"), WARPS)


def unpack(packed: Packed, first: int, out: Tensor) -> None:
    """Outputs first .. first + len(out) - 1 of a layer to out bf16 [whole OUTPUTS, form.k]; `first` a multiple of OUTPUTS."""
    form = packed.form
    fits("unpack", "out", out, (len(out) // OUTPUTS * OUTPUTS, form.k), torch.bfloat16)
    parts = (packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least)
    variant(form).launch((form.k // DEPTH, len(out) // OUTPUTS), *parts, out, first, form.n // OUTPUTS, form.k // STEP)
