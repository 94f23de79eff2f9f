"""Which product of bf16 weights serves how many rows. Owns the choice; the tables are data (tuned/).

    Bulk       bulk.py: few rows, weights by bulk copies through shared memory, wgmma
    CUBLAS     cublas.py: more rows, and layers whose inputs the other does not take

Only for fast settings: who adds, and in which order, follows from the number of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from slipstream.ops.triton import bulk
from slipstream.ops.triton.bulk import Bulk
from slipstream.ops.triton.cublas import cublas
from slipstream.ops.triton.fused import AS_IT_IS, PLAIN, End, Ending
from slipstream.ops.triton.launch import Variant, has_groups, row_facts
from slipstream.ops.triton.tuned import Ranges

CUBLAS = "cublas"
Way = Bulk | str
Table = tuple[tuple[int, Way], ...]

# By `bench gpu-suite --only dense_forms`: layers by their size.
SMALL, LARGE, HUGE = (Ranges(name, ({"bulk": Bulk},), (CUBLAS,)) for name in ("small", "large", "huge"))
MOST_SMALL, LEAST_HUGE = 1 << 23, 1 << 26  # weights of a layer


@dataclass(frozen=True, slots=True)
class Plain:
    """A layer as its products read it.

    Attributes:
        weight: fp32 or bf16 [n, k], as stored.
        arrived: counters of bulk.py.
    """

    weight: Tensor
    arrived: Tensor


def plain(weight: Tensor) -> Plain:
    """The layer of `weight`, of which nothing is copied."""
    return Plain(weight, bulk.counters(weight.shape[0], weight.device))


def fast(n: int, k: int) -> Table:
    """The table of fast settings for a layer [n, k]."""
    return by_size(n * k).now


def by_size(weights: int) -> Ranges:
    """The table of layers of so many weights."""
    return SMALL if weights <= MOST_SMALL else LARGE if weights < LEAST_HUGE else HUGE


def way(n: int, k: int, rows: int, table: Table) -> Way:
    """What serves so many rows of a layer [n, k] of bf16."""
    found = next(way for most, way in table if rows <= most)
    return found if bulk.serves(n, k) else CUBLAS


def own(layer: Plain, rows: int, table: Table | None = None) -> Bulk | None:
    """The form of bulk.py that serves so many rows, whose products take an end (fused.py); None where cuBLAS does."""
    (n, k), device = layer.weight.shape, layer.weight.device
    chosen = way(n, k, rows, table or fast(n, k)) if layer.weight.dtype is torch.bfloat16 and has_groups(device) else CUBLAS
    return chosen if isinstance(chosen, Bulk) else None


def product(x: Tensor, layer: Plain, bias: Tensor | None, out: Tensor, table: Table | None = None, end: End = PLAIN) -> None:
    """out = x @ weight.T + bias, by the way for so many rows; arguments as in bulk.product, x [m, k] of the weight's type, an `end` only
    where the product is `own`. On the CPU, where Triton's interpreter knows no Gluon, what stands in for cuBLAS there serves all rows."""
    form = own(layer, len(x), table)
    if form is not None:
        bulk.product(x, layer.weight, layer.arrived, bias, out, form, end=end)
    else:
        cublas(x, layer.weight, out)
        if bias is not None:
            out.add_(row_facts("product", "bias", bias, out.shape[1], torch.float32))


def variants(ending: Ending = AS_IT_IS, most: int = 1 << 31) -> Iterator[tuple[str, str, Variant]]:
    """(kernel, what for, variant) of all that the tables launch, with such an end; or of those for up to `most` rows."""
    ends = ((table.now, min(rows, most)) for table in (SMALL, LARGE, HUGE) for rows, _ in table.now)
    for chosen in dict.fromkeys(way(0, 0, rows, table) for table, rows in ends):
        if isinstance(chosen, Bulk):
            yield "bulk", f"rows {chosen.rows} ring {chosen.ring}", bulk.variant(False, chosen, False, ending)
