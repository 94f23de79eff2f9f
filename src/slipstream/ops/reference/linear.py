"""Linear layers of each weight format."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.reference.arithmetic import fma, one_thread
from slipstream.ops.types import INT8_BLOCK

BLOCK = 16  # rows of a matrix product; the last block is padded with zeros
PANEL = 1024  # weight rows widened to fp32 at a time, so that scratch stays small
ALIGNMENT = 64  # bytes; what torch's own allocations have


def check_stored(kernel: str, stored: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> None:
    """Raises InputError unless `stored` holds a weight [n, k], and a scale [n] where the format has one, in these types."""
    if set(stored) != set(dtypes):
        raise InputError(f"{kernel}: needs the tensors {sorted(dtypes)}, got {sorted(stored)}")
    for name, dtype in dtypes.items():
        tensor = stored[name]
        if tensor.dtype != dtype or tensor.ndim != (2 if name == "weight" else 1):
            shape = "[n, k]" if name == "weight" else "[n]"
            raise InputError(f"{kernel}: {name} is {tensor.dtype} {list(tensor.shape)}, needs {dtype} {shape}")
    if "scale" in stored and len(stored["scale"]) != len(stored["weight"]):
        raise InputError(f"{kernel}: scale has {len(stored['scale'])} entries for {len(stored['weight'])} weight rows")


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """fp32 activations times fp32 or bf16 weights, widened to fp32."""

    name: str
    dtype: torch.dtype

    def prepare(self, stored: dict[str, Tensor]) -> Tensor:
        check_stored(self.name, stored, {"weight": self.dtype})
        weight = stored["weight"].contiguous()
        if len(weight) % BLOCK:  # with 2 to 11 outputs torch's rows differ by their place, with a multiple of 16 they do not
            weight = F.pad(weight, (0, 0, 0, -len(weight) % BLOCK))
        return weight if weight.data_ptr() % ALIGNMENT == 0 else weight.clone()

    @one_thread()
    def run(self, x: Tensor, prepared: Tensor, bias: Tensor | None, out: Tensor) -> None:
        for column in range(0, out.shape[1], PANEL):
            panel = prepared[column : column + PANEL].float()  # [n', k]
            width = min(PANEL, out.shape[1] - column)
            for row in range(0, len(x), BLOCK):
                rows = x[row : row + BLOCK]
                block = x.new_zeros(BLOCK, x.shape[1])
                block[: len(rows)] = rows
                out[row : row + BLOCK, column : column + width] = F.linear(block, panel)[: len(rows), :width]
        if bias is not None:
            out.add_(bias)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """int8 weights with one scale per output, activations quantised per block of 32 values of a row.

    A product of a block is an integer below 2^24 and so exact in fp32, in whatever order torch sums it.
    """

    name: str = "reference_int8"

    def prepare(self, stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        check_stored(self.name, stored, {"weight": torch.int8, "scale": torch.float32})
        weight = stored["weight"]
        padded = F.pad(weight, (0, -weight.shape[1] % INT8_BLOCK))
        return padded.unflatten(1, (-1, INT8_BLOCK)).transpose(0, 1).contiguous(), stored["scale"]  # [k / 32, n, 32]

    def run(self, x: Tensor, prepared: tuple[Tensor, Tensor], bias: Tensor | None, out: Tensor) -> None:
        weight, weight_scale = prepared
        quantised, scale = quantise_rows(x)  # [rows, k / 32, 32], [rows, k / 32]
        total = x.new_zeros(len(x), weight.shape[1])
        for block in range(len(weight)):
            dot = quantised[:, block] @ weight[block].float().T  # [rows, n], integers
            total = fma(dot, scale[:, block, None], total)
        torch.mul(total, weight_scale, out=out)
        if bias is not None:
            out.add_(bias)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 per block of 32: x [rows, k] -> whole numbers in fp32 [rows, k / 32, 32], scales [rows, k / 32]; k is padded."""
    blocks = F.pad(x, (0, -x.shape[1] % INT8_BLOCK)).unflatten(1, (-1, INT8_BLOCK))
    scale = blocks.abs().amax(-1) / 127
    whole = torch.where(scale[..., None] == 0, 0.0, torch.round(blocks / scale[..., None]))
    return whole, scale
