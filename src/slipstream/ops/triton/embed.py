"""Gathering rows of a table. Owns its kernel. An id past the table is not noticed: nothing is read back from the device."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, row_facts, type_name

BLOCK = 1024  # numbers of a row per program


@triton.jit(do_not_specialize_on_alignment=["ids"])
def _embed(ids, table, out, hidden: tl.constexpr, block: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < hidden
    source = tl.load(ids + row).to(tl.int64)
    value = tl.load(table + source * hidden + column, mask=inside)
    tl.store(out + row * hidden + column, value.to(tl.float32), mask=inside)


@cache
def variant(hidden: int, table: str) -> Variant:
    """The form for a table of this type, "*fp32" or "*bf16"."""
    return Variant(_embed, {"hidden": hidden, "block": BLOCK}, ("*i32", table, "*fp32"))


def embed(ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out [rows, hidden] = rows `ids` [rows] of `table` [any, hidden], fp32 or bf16."""
    rows, hidden = out.shape
    kind = type_name("embed", "table", table)
    row_facts("embed", "ids", ids, rows)
    fits("embed", "table", table, (table.shape[0], hidden), table.dtype)
    fits("embed", "out", out, (rows, hidden))
    variant(hidden, kind).launch((rows, triton.cdiv(hidden, BLOCK)), ids, table, out)
