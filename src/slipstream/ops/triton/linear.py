"""Linear layers by torch, which calls cuBLAS. Owns the types that go into each product.

    fp32   fp32 x fp32, TF32 off as torch has it by default
    bf16   activations rounded to bf16, products on tensor cores, sums and results in fp32
    int8   as bf16, with the weight's whole numbers as bf16 (exact up to 256); then times the scale of the output, in fp32

cuBLAS picks an algorithm by the number of rows, so a row's bits may depend on it: these layers are fast, not deterministic.
The int8 weight is widened whole in every call: n * k * 2 bytes of scratch, and three times the traffic of a bf16 weight.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.launch import fits

_STORED = {
    "fp32": {"weight": torch.float32},
    "bf16": {"weight": torch.bfloat16},
    "int8": {"weight": torch.int8, "scale": torch.float32},
}


@dataclass(frozen=True, slots=True)
class Linear:
    """out = x @ weight.T + bias for one weight format.

    Attributes:
        format: of the weight.
        product: (x [rows, k], weight [n, k], both bf16, out [rows, n] fp32), which makes the product; not used by fp32.
    """

    format: str
    product: Callable[[Tensor, Tensor, Tensor], None]

    def with_product(self, product: Callable[[Tensor, Tensor, Tensor], None]) -> "Linear":
        """The same layer with another way to multiply."""
        return replace(self, product=product)

    @property
    def name(self) -> str:
        return f"triton_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Checks {"weight": [n, k]} (int8: and {"scale": fp32 [n]}); nothing is packed."""
        wanted = _STORED[self.format]
        if set(stored) != set(wanted) or stored["weight"].dim() != 2:
            found = {name: list(tensor.shape) for name, tensor in stored.items()}
            raise InputError(f"{self.name}: needs exactly the tensors {sorted(wanted)}, weight as [n, k]; found {found}")
        n, k = stored["weight"].shape
        shapes = {"weight": (n, k), "scale": (n,)}
        return {name: fits(self.name, name, stored[name], shapes[name], dtype) for name, dtype in wanted.items()}

    def run(self, x: Tensor, prepared: dict[str, Tensor], bias: Tensor | None, out: Tensor) -> None:
        """Writes out [rows, n] from x [rows, k] and bias [n] or None."""
        weight = prepared["weight"]
        n, k = weight.shape
        rows = x.shape[0]
        fits(self.name, "x", x, (rows, k))
        fits(self.name, "out", out, (rows, n))
        if self.format == "fp32":
            torch.mm(x, weight.t(), out=out)
        else:
            self.product(x.bfloat16(), weight.bfloat16(), out)
        if "scale" in prepared:
            out.mul_(prepared["scale"])
        if bias is not None:
            out.add_(fits(self.name, "bias", bias, (n,)))


def _narrow(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """out [rows, n] fp32 = x [rows, k] @ weight [n, k].T, both bf16, sums in fp32; in tests without a GPU, on the CPU."""
    if x.is_cuda:
        torch.mm(x, weight.t(), out_dtype=torch.float32, out=out)
    else:
        torch.mm(x.float(), weight.float().t(), out=out)


KERNELS = {f"linear_{format}": Linear(format, _narrow) for format in _STORED}
