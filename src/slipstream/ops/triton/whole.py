"""Which product of whole-number weights, and of floats of 6 bits, serves how many rows. Owns the choice; the
tables of fast settings are data (tuned/).

    Stream     streamed.py: few rows, weights from memory straight into registers, mma.sync
    Folded     folded.py: tens to hundreds, the same with wgmma; scales go into the weight, which is for fast settings only
    Carried    carried.py: few rows, by bulk copies through shared memory, mma.sync; in no table that ships before a device has timed it
    TILES      packed.py: plain Triton, for weights that the first three do not know
    UNPACKED   widened.py: many rows, the layer unpacked to bf16 and multiplied by cuBLAS

Where there is no GPU TILES stand in for the first three, and for all but the first where there is no Hopper.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from slipstream.ops.triton import carried, folded, packed, streamed, widened
from slipstream.ops.triton.carried import Carried
from slipstream.ops.triton.folded import Folded
from slipstream.ops.triton.fused import AS_IT_IS, PLAIN, End, Ending
from slipstream.ops.triton.launch import Variant, has_groups
from slipstream.ops.triton.packing import Form, Packed
from slipstream.ops.triton.streamed import Stream
from slipstream.ops.triton.tuned import Ranges

UNPACKED, TILES = "unpacked", "tiles"
Way = Stream | Folded | Carried | str
Table = tuple[tuple[int, Way], ...]

# By `bench gpu-suite --only packed_forms dense_forms`: 4 bits in groups of up to 32 inputs, all others, and floats of 6 bits.
_WAYS = ({"stream": Stream, "folded": Folded, "carried": Carried},)
FINE, COARSE, SIX = (Ranges(name, _WAYS, (UNPACKED, TILES)) for name in ("fine", "coarse", "six"))
# For deterministic settings one order of sums: streams of one depth, `each` and `fill`.
INVARIANT: Table = ((8, Stream(8)), (16, Stream(16, 4, 2)), (32, Stream(32, 4, 2)), (1 << 31, Stream(64, 4, 2)))
SIX_INVARIANT: Table = ((1 << 31, TILES),)


def fast(form: Form) -> Table:
    """The table of fast settings for such weights."""
    return of_fast(form).now


def of_fast(form: Form) -> Ranges:
    """Which table that is."""
    if form.bits == 6:
        return SIX
    return FINE if form.bits == 4 and 0 < form.group <= 32 else COARSE


def invariant(form: Form) -> Table:
    """The table of deterministic settings."""
    return SIX_INVARIANT if form.bits == 6 else INVARIANT


def _table(form: Form, deterministic: bool) -> Table:
    return invariant(form) if deterministic else fast(form)


def way(form: Form, rows: int, table: Table) -> Way:
    """What serves so many rows of such a layer."""
    found = next(way for most, way in table if rows <= most)
    if isinstance(found, Carried) and not carried.serves(form):
        found = Stream(found.rows)
    if isinstance(found, Folded):
        return folded.fitting(form, found)
    return streamed.fitting(form, found) if isinstance(found, Stream) else found


def ends(layer: Packed, rows: int, deterministic: bool) -> bool:
    """Whether what serves so many rows takes an end (fused.py); how many it may be at most is said there."""
    chosen = way(layer.form, rows, _table(layer.form, deterministic))
    return not isinstance(chosen, str) and runs(chosen, layer.codes.device)


def runs(chosen: Way, device: torch.device) -> bool:
    """Whether a way by Gluon runs there; Triton's interpreter knows none."""
    return device.type == "cuda" if isinstance(chosen, Stream) else has_groups(device)


def product(x: Tensor, layer: Packed, bias: Tensor | None, out: Tensor, deterministic: bool = False, end: End = PLAIN) -> None:
    """out = x @ weight.T + bias, by the way for so many rows; arguments as in streamed.product, an `end` only where it `ends`."""
    chosen = way(layer.form, x.shape[0], _table(layer.form, deterministic))
    if chosen == UNPACKED:
        widened.product(x, layer, bias, out)
    elif chosen == TILES or not runs(chosen, x.device):
        packed.product(x, layer, bias, out)
    elif isinstance(chosen, Folded):
        folded.product(x, layer, bias, out, chosen, end)
    elif isinstance(chosen, Carried):
        carried.product(x, layer, bias, out, chosen, end)
    else:
        streamed.product(x, layer, bias, out, chosen, end)


def variants(form: Form, ending: Ending = AS_IT_IS, most: int = 1 << 31) -> Iterator[tuple[str, str, Variant]]:
    """(kernel, what for, variant) of all that both tables launch for such a layer, or of those for up to `most` rows; with such an end
    those only that take one."""
    for chosen in dict.fromkeys(way(form, min(rows, most), table) for table in (fast(form), invariant(form)) for rows, _ in table):
        if isinstance(chosen, str) and ending != AS_IT_IS:
            continue
        if chosen == UNPACKED:
            yield "packed_unpack", "", widened.variant(form)
        elif chosen == TILES:
            for rows, tile in packed.BY_ROWS:
                for name, made in zip(("packed", "packed_merge"), packed.variants(form, rows, False), strict=False):
                    yield name, f"rows {tile.m}", made
        elif isinstance(chosen, Carried):
            made = carried.variant(form, False, chosen, ending)
            yield "packed_carry", f"rows {chosen.rows} {chosen.deep}x{chosen.wide}x{chosen.each}", made
        elif isinstance(chosen, Folded):
            yield "packed_fold", f"rows {chosen.rows} {chosen.warps}x{chosen.each}", folded.variant(form, False, chosen, ending)
        else:
            yield "packed_stream", f"rows {chosen.rows} {chosen.deep}x{chosen.wide}", streamed.variant(form, False, chosen, ending)
