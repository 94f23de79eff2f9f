"""Candidates for the linear layer: one entry per way to compute x [m, k] bf16 times weight [n, k].

Owns how each is prepared and called. What a design is allowed to round differs; `exact` says which compute the bf16 product.
A design answers Declined where it does not run. `make` prepares a weight once, `take` the activations (before the clock
starts: quantising them is the business of whatever makes them); the product returns [m, n].
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.bench.gpu.packed_forms import INT4, INT8, ZERO_128, Candidate, engine, four_bits, multiply, stored
from slipstream.ops.triton import fp8, gemm
from slipstream.ops.triton.gemm import Tile
from slipstream.ops.triton.linear import KERNELS
from slipstream.ops.triton.packing import OUTPUTS, pack
from slipstream.ops.types import Declined
from slipstream.quant.formats.fp8 import quantise

Product = Callable[[Any], Tensor]  # what `take` made of x [m, k] -> [m, n]
GROUP = 128  # weights that share a scale and zero point in the 4-bit designs
LEAST_INT8_ROWS = 17  # torch._int_mm takes no fewer
FP8_MAX, X_MAX = 448.0, 6.0  # greatest e4m3; greatest activation that the static scale expects


@dataclass(frozen=True)
class Design:
    """One way to compute a linear layer.

    Attributes:
        name: in tables.
        bits: per weight in memory, scales included.
        rate: how many times the bf16 peak its arithmetic may reach.
        exact: the bf16 product itself, so that results may be compared bit by bit and closely.
        make: weight [n, k] bf16 -> Product, or Declined.
        published: name of the same in published tables.
        take: x [m, k] bf16 -> what the product is called with.
    """

    name: str
    bits: float
    rate: float
    exact: bool
    make: Callable[[Tensor], "Product | Declined"]
    published: str | None = None
    take: Callable[[Tensor], Any] = lambda x: x

    def apply(self, product: Product, x: Tensor) -> Tensor:
        """The whole layer: x [m, k] bf16 -> [m, n]."""
        return product(self.take(x))


def cublas(weight: Tensor) -> Product:
    """torch.mm with bf16 results."""
    return lambda x: torch.mm(x, weight.t())


def cublas_fp32(weight: Tensor) -> Product | Declined:
    """torch.mm with fp32 results, as ops/triton/linear.py calls it."""
    if not weight.is_cuda:
        return Declined("bf16 products with fp32 results are CUDA only in torch")
    return lambda x: torch.mm(x, weight.t(), out_dtype=torch.float32)


def tiled(tile: Tile, way: str = "") -> Callable[[Tensor], Product]:
    """The fixed-tile product of ops/triton/gemm.py; fp32 results. `way` "whole" keeps one program per tile for any m."""

    def make(weight: Tensor) -> Product:
        n, k = weight.shape

        def product(x: Tensor) -> Tensor:
            out = torch.empty(x.shape[0], n, device=x.device)
            if way == "whole":
                grid = (-(-x.shape[0] // tile.m), -(-n // tile.n))
                gemm.variant(n, k, "*fp32", False, tile).launch(grid, x, weight, out, x.shape[0])
            else:
                gemm.matmul(x, weight, out, tile=tile)
            return out

        return product

    return make


def by_row(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [m, k] as e4m3 with one scale per row [m, 1]."""
    own = x.abs().amax(1, keepdim=True).float() / FP8_MAX
    return (x / own).to(torch.float8_e4m3fn), own


def at_once(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [m, k] as e4m3 with a scale that was known before."""
    fixed = torch.full((), X_MAX / FP8_MAX, device=x.device)
    return (x / fixed).to(torch.float8_e4m3fn), fixed


def whole_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [m, k] as int8 with one scale per row [m, 1], padded to the rows that torch._int_mm takes."""
    own = x.abs().amax(1, keepdim=True).float() / 127
    narrow = torch.round(x / own).to(torch.int8)
    return (narrow if len(x) >= LEAST_INT8_ROWS else F.pad(narrow, (0, 0, 0, 32 - len(x)))), own


def scaled_mm(rowwise: bool) -> Callable[[Tensor], Product | Declined]:
    """torch._scaled_mm on e4m3, weights with one scale or one per output."""

    def make(weight: Tensor) -> Product | Declined:
        if not weight.is_cuda:
            return Declined("fp8 products are looked at on CUDA only")
        n, k = weight.shape
        if n % 16 or k % 16:
            return Declined(f"torch._scaled_mm takes multiples of 16, not {n} x {k}")
        scale = (weight.abs().amax(1, keepdim=True) if rowwise else weight.abs().amax().view(1, 1)).float() / FP8_MAX
        narrow = (weight / scale).to(torch.float8_e4m3fn).t()
        other = scale.t().contiguous() if rowwise else scale.view(())
        return lambda taken: torch._scaled_mm(taken[0], narrow, taken[1], other, out_dtype=torch.bfloat16)

    return make


def e4m3(by_block: bool) -> Callable[[Tensor], Product | Declined]:
    """The products of ops/triton/fp8.py, weights with one scale per output or per 128 x 128; fp32 results."""

    def make(weight: Tensor) -> Product | Declined:
        n, k = weight.shape
        if not weight.is_cuda or k % fp8.GROUP:
            return Declined(f"looked at on CUDA only, where k is a multiple of {fp8.GROUP}, not {k}")
        size = (fp8.GROUP, fp8.GROUP) if by_block else (1, k)
        whole = F.pad(weight.float().abs(), (0, 0, 0, -n % size[0]))  # [n, k], n filled up to whole blocks
        scale = whole.unflatten(0, (-1, size[0])).unflatten(2, (-1, size[1])).amax((1, 3)) / FP8_MAX
        wide = scale.repeat_interleave(size[0], 0)[:n].repeat_interleave(size[1], 1)
        codes = (weight / wide).to(torch.float8_e4m3fn)

        def product(taken: tuple[Tensor, Tensor]) -> Tensor:
            out = torch.empty(taken[0].shape[0], n, device=weight.device)
            fp8.product(*taken, codes, scale.contiguous(), out)
            return out

        return product

    return make


def fp8_layer(weight: Tensor) -> Product | Declined:
    """What the engine does with --quant fp8: activations quantised within, the own product or torch's by the number of rows."""
    n, k = weight.shape
    if not weight.is_cuda or k % fp8.GROUP:
        return Declined(f"looked at on CUDA only, where k is a multiple of {fp8.GROUP}, not {k}")
    kernel = KERNELS["linear_fp8"]
    prepared = kernel.prepare(quantise(weight))

    def product(x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], n, device=weight.device)
        kernel.run(x, prepared, None, out)
        return out

    return product


def int_mm(weight: Tensor) -> Product:
    """torch._int_mm: int8 weights per output, exact whole-number products, then both scales."""
    scale = (weight.abs().amax(1).float() / 127)[None, :]  # [1, n]
    whole = torch.round(weight / scale.t()).to(torch.int8).t()
    return lambda taken: torch._int_mm(taken[0], whole)[: len(taken[1])] * taken[1] * scale


def tinygemm(weight: Tensor) -> Product | Declined:
    """torch._weight_int4pack_mm (the tinygemm of gpt-fast), groups of 128."""
    n, k = weight.shape
    if not weight.is_cuda:
        return Declined("torch._weight_int4pack_mm has another layout on the CPU")
    if n % 8 or k % 1024:
        return Declined(f"takes n a multiple of 8 and k of 1024, not {n} x {k}")
    whole, scale, least = four_bits(weight, GROUP)
    packed = torch.ops.aten._convert_weight_to_int4pack((whole[:, ::2] << 4 | whole[:, 1::2]).to(torch.uint8), 8)
    middle = least + 8 * scale  # it computes (q - 8) * scale + zero
    pairs = torch.cat([scale, middle], -1).transpose(0, 1).contiguous().bfloat16()  # [k / GROUP, n, 2]
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, pairs)


def gemlite(weight: Tensor) -> Product | Declined:
    """GemLite's A16W4 (Triton), groups of 128; version 0.6's interface."""
    if importlib.util.find_spec("gemlite") is None:
        return Declined("gemlite is not installed")
    if not weight.is_cuda:
        return Declined("gemlite runs on CUDA only")
    from gemlite.helper import A16W4_HQQ_INT

    whole, scale, least = four_bits(weight, GROUP)
    n, k = weight.shape
    scales, zeros = scale.bfloat16().view(-1, 1), (-least / scale).bfloat16().view(-1, 1)  # it computes (q - zero) * scale
    layer = A16W4_HQQ_INT(device=str(weight.device), dtype=torch.bfloat16).from_weights(
        whole.to(torch.uint8).view(n, k), scales.view(n, -1), zeros.view(n, -1), None
    )
    return lambda x: layer(x)


def packed_weight(candidate: Candidate) -> Callable[[Tensor], Product | Declined]:
    """A whole-number product of packed_forms.py, fp32 results."""

    def make(weight: Tensor) -> Product | Declined:
        n, k = weight.shape
        if k % max(candidate.kind.group, 1):
            return Declined(f"takes k a multiple of {candidate.kind.group}, not {k}")
        if not weight.is_cuda and (candidate.kind.format != "int4" or n > OUTPUTS):
            return Declined("without a GPU only int4 is looked at, and one tile of outputs: the interpreter is slow")
        layer = pack(stored(candidate.kind, weight)[0])
        return lambda x: multiply(candidate, x, layer)

    return make


FOUR_BITS = 4 + 32 / GROUP
DESIGNS = (
    Design("cublas", 16, 1, True, cublas, "bfloat16"),
    Design("cublas_fp32", 16, 1, True, cublas_fp32, "bfloat16"),
    Design("tiled", 16, 1, True, tiled(gemm.TILE), "bfloat16"),
    Design("tiled_whole", 16, 1, True, tiled(gemm.TILE, "whole"), "bfloat16"),
    Design("tiled_64x64", 16, 1, True, tiled(Tile(64, 64, 64, 4, 4)), "bfloat16"),
    Design("tiled_128x128", 16, 1, True, tiled(Tile(128, 128, 64, 8, 4)), "bfloat16"),
    Design("scaled_mm", 8, 2, False, scaled_mm(False), "fp8", at_once),
    Design("scaled_mm_rows", 8, 2, False, scaled_mm(True), "fp8", by_row),
    Design("fp8", 8, 2, False, e4m3(False), "fp8", lambda x: fp8.quantise(x.float(), False)),
    Design("fp8_block", 8, 2, False, e4m3(True), "fp8_block", lambda x: fp8.quantise(x.float(), True)),
    Design("fp8_layer", 8, 2, False, fp8_layer, "fp8"),
    Design("int_mm", 8, 2, False, int_mm, None, whole_rows),
    *(Design(str(kind), kind.bits, 1, False, packed_weight(engine(kind))) for kind in (INT4, ZERO_128, INT8)),
    *(Design(f"{kind}_invariant", kind.bits, 1, False, packed_weight(engine(kind, invariant=True))) for kind in (INT4, ZERO_128)),
    Design("tinygemm", FOUR_BITS, 1, False, tinygemm),
    Design("gemlite", FOUR_BITS, 1, False, gemlite),
)


def named(*names: str) -> list[Design]:
    """Some of them, in the order of DESIGNS."""
    return [design for design in DESIGNS if design.name in names]
