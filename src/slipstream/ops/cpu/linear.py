"""Linear layers: packing once at load, and running. Owns the face of each weight format; the layouts are in docs/numerics.md."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.ops.cpu.checks import fits

_native = native.module


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight in panels of 32 outputs (docs/numerics.md, "Packing").

    Attributes:
        panels: the bytes, in the kernel's layout.
        scale: one per output, int8 only. [n]
        n, k: outputs, inputs.
    """

    panels: Tensor
    scale: Tensor | None
    n: int
    k: int


STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class Linear:
    """out = x @ weight.T + bias for one weight format."""

    def __init__(self, format: str):
        self.name = f"cpu_{format}"
        self._format = format
        self._run = getattr(_native, f"linear_{format}")

    def prepare(self, stored: dict[str, Tensor]) -> Packed:
        """Packs {"weight": [n, k]} (int8: and {"scale": fp32 [n]}) once; the result holds a copy."""
        wanted = {"weight", "scale"} if self._format == "int8" else {"weight"}
        if set(stored) != wanted or stored["weight"].dim() != 2:
            found = {name: list(tensor.shape) for name, tensor in stored.items()}
            raise InputError(f"{self.name}: needs exactly the tensors {sorted(wanted)}, weight as [n, k]; found {found}")
        n, k = stored["weight"].shape
        source = fits(self.name, "weight", stored["weight"], (n, k), STORED[self._format])
        scale = stored.get("scale")
        if scale is not None:
            fits(self.name, "scale", scale, (n,))
        panels = torch.empty(_native.packed_bytes(self._format, n, k), dtype=torch.uint8)
        _native.pack(self._format, source, panels.data_ptr(), n, k)
        return Packed(panels, scale, n, k)

    def run(self, x: Tensor, prepared: Packed, bias: Tensor | None, out: Tensor) -> None:
        """Writes out [rows, n] from x [rows, k] and bias [n] or None."""
        rows, n, k = x.shape[0], prepared.n, prepared.k
        self._run(
            fits(self.name, "x", x, (rows, k)), prepared.panels.data_ptr(), 0 if prepared.scale is None else prepared.scale.data_ptr(),
            0 if bias is None else fits(self.name, "bias", bias, (n,)), fits(self.name, "out", out, (rows, n)), rows, n, k,
        )  # fmt: skip
