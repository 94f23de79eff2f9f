"""Forms of the products of few rows that the suite compares. Owns the choice for bf16 and e4m3 weights, and the chain of a step.

Of 4-bit weights what packed_forms.py tries alone is here in the chain too: only there one kernel can read while another ends.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slipstream.bench.gpu.packed_forms import CARRIED, INT4, ZERO_128, carried_name, stored
from slipstream.bench.gpu.shapes import Layer
from slipstream.ops.triton import bulk, carried, fp8, packing, plain, whole
from slipstream.ops.triton.bulk import Bulk
from slipstream.ops.triton.carried import Carried
from slipstream.ops.triton.gated import gated
from slipstream.ops.triton.launch import Variant
from slipstream.ops.triton.norm import norm
from slipstream.ops.triton.plain import CUBLAS, Plain, Way
from slipstream.ops.types import CODES_ROOM
from slipstream.quant.formats.fp8 import quantise

FORMS = (
    *(Bulk(8, *rest) for rest in ((64, 6, 528), (64, 8, 396), (64, 12, 264), (64, 4, 792), (64, 6, 1056), (64, 8, 792))),
    *(Bulk(8, *rest) for rest in ((128, 4, 396), (128, 6, 264), (128, 12, 132), (128, 6, 528))),
    *(Bulk(16, *rest) for rest in ((64, 6, 396), (64, 8, 264), (64, 4, 660), (128, 6, 264), (128, 4, 396))),
    *(Bulk(32, *rest) for rest in ((64, 6, 396), (64, 4, 528), (128, 4, 264))),
    *(Bulk(64, *rest) for rest in ((64, 4, 396), (64, 6, 264))),
)
NARROW = (  # of weights in e4m3
    *(Bulk(8, *rest) for rest in ((64, 6, 528), (64, 8, 396), (64, 4, 792), (64, 12, 264), (128, 4, 396), (128, 6, 264))),
    *(Bulk(16, *rest) for rest in ((64, 6, 396), (64, 4, 660), (128, 4, 396))),
    Bulk(32, 64, 6, 396),
    Bulk(64, 64, 4, 396),
)
EPS = 1e-5


FOUR_BITS = {"int4": INT4, "int4_zero": ZERO_128}
KINDS = {  # weights -> (forms, bits, what serves them otherwise)
    "bf16": (FORMS, 16, CUBLAS), "fp8": (NARROW, 8, "tiles"), **{name: (CARRIED, kind.bits, "engine") for name, kind in FOUR_BITS.items()},
}  # fmt: skip
Weights = Plain | fp8.Packed | packing.Packed


def name(way: Way | Carried) -> str:
    """In tables: rows, outputs, tiles of the ring, programs that are wanted."""
    if isinstance(way, Carried):
        return carried_name(way).lstrip("_")
    return f"bulk{way.rows}_{way.outputs}_ring{way.ring}_fill{way.fill}" if isinstance(way, Bulk) else way


def ways(kind: str, rows: int, dry: bool) -> list[Way | Carried]:
    """What is tried for so many rows: what is there without them, and the forms of the fewest rows that are enough; without a device
    one of them."""
    forms, _, other = KINDS[kind]
    enough = min((form.rows for form in forms if form.rows >= rows), default=0)
    return [other, *(form for form in forms if form.rows == enough)][: 2 if dry else None]


def variants(shapes: list[Layer]) -> list[Variant]:
    """Of all forms, to be compiled before; `shapes`: the layers that they are tried on."""
    packed = {kind.form(layer.n, layer.k) for kind in FOUR_BITS.values() for layer in shapes}
    engine = (variant for form in packed for *_, variant in whole.variants(form))
    few = (carried.variant(form, False, chosen) for form in packed for chosen in CARRIED)
    return [*(bulk.variant(False, form) for form in FORMS), *(bulk.variant(False, form, True) for form in NARROW), *engine, *few]


def random(kind: str, layer: Layer, device: str) -> Weights:
    """A layer of random weights."""
    weight = (torch.randn(layer.n, layer.k, device=device) / layer.k**0.5).bfloat16()
    if kind in FOUR_BITS:
        return packing.pack(stored(FOUR_BITS[kind], weight)[0])
    return plain.plain(weight) if kind == "bf16" else fp8.pack(quantise(weight))


def multiply(way: Way | Carried, x: Tensor, layer: Weights, out: Tensor) -> Tensor:
    """out fp32 [m, n] = x @ weight.T, by `way` whatever the engine's tables say; x bf16 [m, k], or codes as norms write them."""
    if isinstance(layer, Plain):
        plain.product(x, layer, None, out, ((1 << 31, way),))
    elif isinstance(way, Carried):
        carried.product(x, layer, None, out, way)
    elif isinstance(layer, packing.Packed):
        whole.product(x, layer, None, out)
    elif isinstance(way, Bulk):
        fp8.product_of_few(x, layer, None, out, way)
    else:
        k = layer.codes.shape[1]
        fp8.product(*(fp8.split(x, k) if x.dtype is fp8.E4M3 else fp8.quantise(x, False)), layer.codes, layer.scale, out)
    return out


@dataclass
class Chain:
    """What a step does between its attentions, layer after layer on weights of their own: norm, qkv, norm (in attention's place), o,
    norm, gate and up, gate, down.

    Attributes:
        layers: weights of each layer by name.
        rows: of activations.
    """

    layers: list[dict[str, Weights]]
    rows: int
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, shapes: dict[str, Layer], count: int, rows: int, device: str) -> "Chain":
        """`count` layers of random weights."""
        names = ("qkv", "o", "gate_up", "down")
        layers = [{key: random(kind, shapes[key], device) for key in names} for _ in range(count)]
        hidden, ffn = shapes["o"].n, shapes["down"].k
        made = {key: torch.empty(rows, shapes[key].n, device=device) for key in names}
        plain = torch.empty(rows, hidden, device=device).bfloat16()
        codes = plain if kind != "fp8" else torch.empty(rows, hidden + CODES_ROOM, device=device).to(fp8.E4M3)
        made |= {"x qkv": codes, "x o": plain, "x gate_up": codes, "x down": torch.empty(rows, ffn, device=device).bfloat16()}
        made |= {"x": torch.randn(rows, hidden, device=device), "weight": torch.ones(hidden, device=device)}
        return cls(layers, rows, made)

    def run(self, way: Way | Carried) -> Tensor:
        """All layers, all products by `way`; what the last one adds [rows, hidden]."""
        parts, added = self.buffers, None
        for layer in self.layers:
            for key in ("qkv", "o", "gate_up"):
                norm(parts["x"], parts["weight"], EPS, parts[f"x {key}"], added)
                multiply(way, parts[f"x {key}"], layer[key], parts[key])
                added = parts["o"] if key == "o" else None
            gated(parts["gate_up"], parts["x down"])
            added = multiply(way, parts["x down"], layer["down"], parts["down"])
        return added
