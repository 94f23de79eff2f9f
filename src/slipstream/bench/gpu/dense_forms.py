"""Forms of the bf16 product of few rows that the suite compares with cuBLAS. Owns the choice, and the chain of products of a step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slipstream.bench.gpu.shapes import Layer
from slipstream.ops.triton import plain
from slipstream.ops.triton.direct import Direct
from slipstream.ops.triton.gated import gated
from slipstream.ops.triton.norm import norm
from slipstream.ops.triton.plain import CUBLAS, Plain, Way
from slipstream.ops.triton.streamed import FILL

FORMS = (
    *(Direct(8, *rest) for rest in ((8, 16, 64, 2), (8, 16, 128, 1), (8, 16, 64, 3), (4, 16, 64, 4), (4, 16, 64, 2), (16, 16, 64, 2))),
    *(Direct(8, *rest) for rest in ((8, 32, 64, 1), (8, 32, 64, 2), (4, 32, 64, 2), (4, 32, 128, 1), (4, 64, 64, 1))),
    *(Direct(8, 8, 16, 64, 2, early) for early in (512, 1024, 2048)),
    *(Direct(8, 8, 16, 64, 2, 0, fill) for fill in (1056, 4224)),
    *(Direct(16, *rest) for rest in ((8, 16, 64, 2), (8, 32, 64, 1), (4, 32, 64, 2), (4, 16, 64, 4), (8, 16, 64, 2, 1024))),
    *(Direct(32, *rest) for rest in ((8, 16, 64, 2), (8, 32, 64, 1))),
)
EPS = 1e-5


def name(way: Way) -> str:
    """In tables: rows, warps that share inputs x outputs, inputs of a stage, stages ahead, and what is unusual."""
    if way == CUBLAS:
        return CUBLAS
    early, fill = f"_early{way.early}" if way.early else "", f"_fill{way.fill}" if way.fill != FILL else ""
    return f"direct{way.rows}_{way.deep}x{way.each}_{way.step}_ahead{way.ahead}{early}{fill}"


def ways(rows: int, dry: bool) -> list[Way]:
    """What is tried for so many rows: cuBLAS, and the forms of the fewest rows that are enough; without a device one of them."""
    enough = min((form.rows for form in FORMS if form.rows >= rows), default=0)
    return [CUBLAS, *(form for form in FORMS if form.rows == enough)][: 2 if dry else None]


def multiply(way: Way, x: Tensor, layer: Plain, out: Tensor) -> Tensor:
    """out fp32 [m, n] = x @ weight.T, by `way` whatever the engine's table says."""
    plain.product(x, layer, None, out, ((1 << 31, way),))
    return out


@dataclass
class Chain:
    """What a step does between its attentions, layer after layer on weights of their own: norm, qkv, norm (in attention's place), o,
    norm, gate and up, gate, down.

    Attributes:
        layers: weights of each layer by name.
        rows: of activations.
    """

    layers: list[dict[str, Plain]]
    rows: int
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, shapes: dict[str, Layer], count: int, rows: int, device: str) -> "Chain":
        """`count` layers of random weights."""
        names = ("qkv", "o", "gate_up", "down")
        layers = [{key: plain.plain(random(shapes[key], device)) for key in names} for _ in range(count)]
        hidden, ffn = shapes["o"].n, shapes["down"].k
        made = {key: torch.empty(rows, shapes[key].n, device=device) for key in names}
        made |= {
            "x": torch.randn(rows, hidden, device=device), "narrow": torch.empty(rows, hidden, device=device).bfloat16(),
            "wide": torch.empty(rows, ffn, device=device).bfloat16(), "weight": torch.ones(hidden, device=device),
        }  # fmt: skip
        return cls(layers, rows, made)

    def run(self, way: Way) -> Tensor:
        """All layers, all products by `way`; the state after them [rows, hidden]."""
        parts, added = self.buffers, None
        for layer in self.layers:
            for key in ("qkv", "o", "gate_up"):
                norm(parts["x"], parts["weight"], EPS, parts["narrow"], added)
                multiply(way, parts["narrow"], layer[key], parts[key])
                added = parts["o"] if key == "o" else None
            gated(parts["gate_up"], parts["wide"])
            multiply(way, parts["wide"], layer["down"], parts["down"])
            added = parts["down"]
        return parts["down"]

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(part.weight.numel() * 2 for layer in self.layers for part in layer.values())


def random(layer: Layer, device: str) -> Tensor:
    """Weights bf16 [n, k]."""
    return (torch.randn(layer.n, layer.k, device=device) / layer.k**0.5).bfloat16()
