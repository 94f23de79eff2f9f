"""Linear layers: packing once at load, and running. Owns the face of each weight format; the layouts are in docs/numerics.md."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.ops.cpu.checks import fits, integers, rows_apart
from slipstream.ops.types import LINEAR_FORMATS, SPANS, check_stored

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


class Linear:
    """out = x @ weight.T + bias for one weight format, with `activations` values of a row by one scale where it rounds them."""

    def __init__(self, format: str, activations: str = "32"):
        self.name = f"cpu_{format}"
        self._format, self._kind, self._span = format, _native.weight_kind(format), SPANS[activations]
        if any(shared > 1 for name, (_, shared) in LINEAR_FORMATS[format].items() if name != "weight"):
            self.gather = self._gather

    def prepare(self, stored: dict[str, Tensor]) -> Packed:
        """Packs the stored tensors (ops/types.py, LINEAR_FORMATS) once; the result holds a copy."""
        n, k = check_stored(self.name, self._format, stored)
        places = {
            name: fits(self.name, name, stored[name], tuple(stored[name].shape), dtype)
            for name, (dtype, _) in LINEAR_FORMATS[self._format].items()
        }
        panels = torch.empty(_native.packed_bytes(self._format, n, k), dtype=torch.uint8)
        parts = (places.get(name, 0) for name in ("weight", "scale", "least", "group", "group_least"))
        _native.pack(self._format, *parts, panels.data_ptr(), n, k)
        return Packed(panels, stored["scale"] if self._format == "int8" else None, n, k)

    def save(self, prepared: Packed) -> dict[str, Tensor]:
        """See LinearKernel."""
        scale = {} if prepared.scale is None else {"scale": prepared.scale}
        return {"panels": prepared.panels, "size": torch.tensor([prepared.n, prepared.k]), **scale}

    def restore(self, saved: dict[str, Tensor]) -> tuple[Packed, int]:
        """See LinearKernel."""
        n, k = saved["size"].tolist()
        found, needed = saved["panels"].nbytes, _native.packed_bytes(self._format, n, k)
        if found != needed:
            raise InputError(f"{self.name}: a packed weight of {n} x {k} has {needed} bytes, not {found}; pack it again")
        return Packed(saved["panels"], saved.get("scale"), n, k), n

    def run(self, x: Tensor, prepared: Packed, bias: Tensor | None, out: Tensor) -> None:
        """Writes out [rows, n], whose rows may lie apart, from x [rows, k] and bias [n] or None."""
        rows, n, k = x.shape[0], prepared.n, prepared.k
        address, stride = rows_apart(self.name, "out", out, (rows, n))
        _native.linear(
            self._kind, self._span, fits(self.name, "x", x, (rows, k)), prepared.panels.data_ptr(),
            0 if prepared.scale is None else prepared.scale.data_ptr(),
            0 if bias is None else fits(self.name, "bias", bias, (n,)), address, rows, n, k, stride,
        )  # fmt: skip

    def _gather(self, ids: Tensor, prepared: Packed, out: Tensor) -> None:
        """Writes rows `ids` [rows] of the weight, unpacked, to out [rows, k]."""
        rows, n, k = ids.shape[0], prepared.n, prepared.k
        places = integers(self.name, "ids", ids, rows), prepared.panels.data_ptr(), fits(self.name, "out", out, (rows, k))
        _native.gather(self._kind, *places, rows, n, k)
