"""Linear layers: the face of each weight format. Owns the types that go into each product; who multiplies is written below.

    fp32                   fp32 x fp32, TF32 off as torch has it by default: cuBLAS, or gemm.py
    bf16                   activations rounded to bf16, tensor cores, sums and results in fp32: plain.py says by what, or gemm.py
    whole-number weights   and floats of 6 bits: activations rounded to bf16, weights as they are: whole.py says by what
    weights of 4 bits      besides, where activations are asked for in e4m3: both go into the tensor cores as e4m3, packed.py
    8-bit floats           activations rounded to bf16, then to e4m3 as they come, weights as they are: fp8.py, and cuBLAS for many rows,
                           bulk.py for few

Who multiplies follows from the number of rows, and cuBLAS has several ways, too, so a row's bits may depend on it: those layers are
fast, not deterministic.
Each layer has a twin that is. Activations may come as fp32 or as bf16, which then is not rounded again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.base.errors import BackendError, InputError
from slipstream.ops.triton import fp8, gated, gemm, packed, plain, whole
from slipstream.ops.triton.fused import NEVER, ended, serves, up_to
from slipstream.ops.triton.launch import FLOATS, fits, has_groups
from slipstream.ops.triton.packing import Form, Packed, pack
from slipstream.ops.triton.pairs import SIDE, paired
from slipstream.ops.types import CODED, CODES_ROOM, E4M3, FOUR_BITS, LINEAR_FORMATS, Declined, Norming, check_stored, linear_op

PLAIN = ("fp32", "bf16")
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}  # in messages
NARROW_FROM = (8, 9)  # compute capability from which tensor cores take e4m3


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """out = x @ weight.T + bias of fp32 or bf16 weights.

    Attributes:
        format: of the weight.
        invariant: whether a row has the same bits for every number of rows.
        reads: see LinearKernel.
    """

    format: str
    invariant: bool = False

    def deterministic(self) -> "PlainLinear":
        """The same layer, giving a row the same bits for every number of rows."""
        return replace(self, invariant=True)

    @property
    def name(self) -> str:
        return f"triton_{self.format}"

    @property
    def reads(self) -> torch.dtype:
        return LINEAR_FORMATS[self.format]["weight"][0]

    def prepare(self, stored: dict[str, Tensor]) -> plain.Plain:
        """Checks {"weight": [n, k]}; nothing is packed."""
        shape = check_stored(self.name, self.format, stored)
        return plain.plain(fits(self.name, "weight", stored["weight"], shape, stored["weight"].dtype))

    def run(self, x: Tensor | Norming, prepared: plain.Plain, bias: Tensor | None, out: Tensor | Norming, gate: str = "") -> None:
        """See LinearKernel. `gate`: an activation, only where it `ends`: out fp32 or bf16 [rows, n / 2] is what it gates of pairs."""
        x, out, end = ended(x, out, gate)
        weight, rows = prepared.weight, x.shape[0]
        n, k = weight.shape
        _check(self.name, x, (rows, k), out, n, gate)
        narrow = x.to(weight.dtype)
        if self.invariant:
            _finished(self.name, lambda whole: gemm.matmul(narrow, weight, whole), bias, out)
        else:
            plain.product(narrow, prepared, bias, out, end=end)

    def ends(self, rows: int, prepared: plain.Plain) -> bool:
        """Whether the product of so many rows takes an end."""
        return not self.invariant and plain.own(prepared, rows) is not None

    def fuses(self, rows: int, prepared: plain.Plain) -> bool:
        """See LinearKernel."""
        return serves("norm", self.format, rows) and self.ends(rows, prepared)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """out = x @ weight.T + bias of whole-number weights, or of floats of 6 bits.

    Attributes:
        format: of the weight.
        invariant: whether a row has the same bits for every number of rows.
    """

    format: str
    invariant: bool = False
    reads = torch.bfloat16

    def deterministic(self) -> "PackedLinear":
        """The same layer, giving a row the same bits for every number of rows."""
        return replace(self, invariant=True)

    @property
    def name(self) -> str:
        return f"triton_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> Packed:
        """Packs the stored tensors (ops/types.py, LINEAR_FORMATS) once; the result holds a copy."""
        check_stored(self.name, self.format, stored)
        return pack(stored)

    def run(self, x: Tensor | Norming, prepared: Packed, bias: Tensor | None, out: Tensor | Norming, gate: str = "") -> None:
        """See LinearKernel, and PlainLinear for the gate."""
        x, out, end = ended(x, out, gate)
        form = prepared.form
        _check(self.name, x, (x.shape[0], form.inputs), out, form.outputs, gate)
        whole.product(_filled(x, form), prepared, bias, out, self.invariant, end)

    def ends(self, rows: int, prepared: Packed) -> bool:
        """Whether the product of so many rows takes an end."""
        return whole.ends(prepared, rows, self.invariant)

    def fuses(self, rows: int, prepared: Packed) -> bool:
        """See LinearKernel. Not in deterministic settings: squares are summed as the outputs of programs fall, which follows from rows."""
        return not self.invariant and serves("norm", self.format, rows) and self.ends(rows, prepared)


class GatheringLinear(PackedLinear):
    """Where inputs share scales, a row of the weight can be had alone."""

    __slots__ = ()

    def gather(self, ids: Tensor, prepared: Packed, out: Tensor) -> None:
        """See LinearKernel."""
        packed.gather(ids, prepared, out)


class CodedLinear(GatheringLinear):
    """The same of 4-bit weights, activations rounded to bf16 and then to e4m3 by one scale per row."""

    __slots__ = ()
    reads = fp8.E4M3

    def prepare(self, stored: dict[str, Tensor]) -> Packed:
        """See PackedLinear; BackendError where the GPU is too old."""
        _knows_e4m3(self.name, stored["weight"], "leave activations='fp8' out")
        return super().prepare(stored)

    def run(self, x: Tensor, prepared: Packed, bias: Tensor | None, out: Tensor) -> None:
        """See LinearKernel. One product serves all numbers of rows."""
        rows, form = x.shape[0], prepared.form
        if x.dtype is fp8.E4M3:
            _check_out(self.name, rows, out, form.outputs)
        else:
            _check(self.name, x, (rows, form.inputs), out, form.outputs)
            x = fp8.coded(x)
        packed.product(x, prepared, bias, out)

    def fuses(self, rows: int, prepared: Packed) -> bool:
        """See LinearKernel. Never: a row is rounded by its greatest number, which nobody has before all of it is there."""
        return False


@dataclass(frozen=True, slots=True)
class NarrowLinear:
    """out = x @ weight.T + bias of e4m3 weights.

    Attributes:
        format: of the weight.
        invariant: whether a row has the same bits for every number of rows: no product of torch's serves.
    """

    format: str
    invariant: bool = False

    @property
    def reads(self) -> torch.dtype:
        return fp8.E4M3 if self.format == "fp8" else torch.bfloat16

    def deterministic(self) -> "NarrowLinear":
        """The same layer, giving a row the same bits for every number of rows."""
        return replace(self, invariant=True)

    @property
    def name(self) -> str:
        return f"triton_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> fp8.Packed:
        """Packs the stored tensors (ops/types.py, LINEAR_FORMATS) once.

        Raises:
            InputError: they do not fit.
            BackendError: the GPU is too old.
        """
        check_stored(self.name, self.format, stored)
        _knows_e4m3(self.name, stored["weight"], "take quant='bf16' or 'int8'")
        return fp8.pack(stored)

    def run(self, x: Tensor, prepared: fp8.Packed, bias: Tensor | None, out: Tensor, gate: str = "") -> None:
        """See LinearKernel, and PlainLinear for the gate."""
        (n, k), rows = prepared.codes.shape, x.shape[0]
        if self.ends(rows, prepared):
            _check_out(self.name, rows, out, n, gate)
            fp8.product_of_few(x, prepared, bias, out, fp8.few(rows, prepared), gate)
            return
        if x.dtype is fp8.E4M3:
            codes, scale = fp8.split(fits(self.name, "x", x, (rows, k + CODES_ROOM), x.dtype), k)
        else:
            _check(self.name, x, (rows, k), out, n)
            codes, scale = fp8.quantise(x, by_block=self.format == "fp8_block")
        if not self.invariant and self.format == "fp8" and fp8.fast(rows) == fp8.TORCH and n % fp8.UNIT == 0:
            fp8.product_by_torch(codes, scale, prepared, bias, out)
        else:
            _finished(self.name, lambda whole: fp8.product(codes, scale, prepared.codes, prepared.scale, whole), bias, out)

    def ends(self, rows: int, prepared: fp8.Packed) -> bool:
        """Whether bulk.py serves so many rows, whose products take an end."""
        fast = self.format == "fp8" and not self.invariant and has_groups(prepared.codes.device)
        return fast and fp8.few(rows, prepared) is not None

    def fuses(self, rows: int, prepared: fp8.Packed) -> bool:
        """See LinearKernel. Never: as in CodedLinear."""
        return False


@dataclass(frozen=True, slots=True)
class GateUp:
    """Gate and up as one layer in pairs (pairs.py), gated by the product that made them where rows are few, by a kernel behind it where
    they are many. Numbers are gated as they were summed, in fp32, either way, and are the same bits.

    Attributes:
        linear: what multiplies.
    """

    linear: PlainLinear | PackedLinear | NarrowLinear
    unit = SIDE

    def deterministic(self) -> "GateUp":
        """The same, giving a row the same bits for every number of rows."""
        return replace(self, linear=self.linear.deterministic())

    @property
    def name(self) -> str:
        return f"triton_gate_up_{self.linear.format}"

    @property
    def reads(self) -> torch.dtype:
        return self.linear.reads

    def prepare(self, stored: dict[str, Tensor], bias: Tensor | None) -> tuple[Any, Tensor | None]:
        """Packs the layer with its outputs in pairs."""
        return self.linear.prepare(paired(stored)), None if bias is None else paired({"bias": bias})["bias"]

    def fuses(self, rows: int, prepared: tuple[Any, Tensor | None]) -> bool:
        """See GateUpKernel."""
        return self.linear.fuses(rows, prepared[0])

    def run(
        self, x: Tensor | Norming, prepared: tuple[Any, Tensor | None], activation: str, products: Tensor, out: Tensor
    ) -> None:  # fmt: skip
        """See GateUpKernel."""
        (layer, bias), rows = prepared, len(out)
        if serves("gate", self.linear.format, rows) and self.linear.ends(rows, layer):
            self.linear.run(x, layer, bias, out, activation)
        else:
            self.linear.run(x, layer, bias, products)
            gated.gated_pairs(products, out, activation)


def gate_up(op: str) -> GateUp | Declined:
    """What serves "gate_up_<format>"."""
    format = op.removeprefix("gate_up_")
    if format in NEVER:
        return Declined(f"no gates within products of {format}: {NEVER[format]}")
    if format not in up_to()["gate"]:
        return Declined(f"nobody has measured gates within products of {format}; they are kernels of their own")
    return GateUp(KERNELS[f"linear_{format}"])


def _filled(x: Tensor, form: Form) -> Tensor:
    """x in bf16, inputs filled up with zeros to those of the packed layer."""
    return x.bfloat16() if form.k == form.inputs else F.pad(x.bfloat16(), (0, form.k - form.inputs))


def _knows_e4m3(name: str, weight: Tensor, way_out: str) -> None:
    if weight.is_cuda and torch.cuda.get_device_capability(weight.device) < NARROW_FROM:
        raise BackendError(f"{name}: needs a GPU of compute capability 8.9 or later (Ada, Hopper); {way_out}")


def _finished(name: str, product: Callable[[Tensor], None], bias: Tensor | None, out: Tensor) -> None:
    """What `product` writes, plus a bias, in out, whose rows may lie apart."""
    rows, n = out.shape
    whole = out if out.is_contiguous() else torch.empty(rows, n, device=out.device)
    product(whole)
    if bias is not None:
        whole.add_(fits(name, "bias", bias, (n,)))
    if whole is not out:
        out.copy_(whole)


def _check(name: str, x: Tensor, shape: tuple[int, int], out: Tensor, n: int, gate: str = "") -> None:
    fits(name, "x", x, shape, x.dtype if x.dtype in FLOATS else torch.float32)
    _check_out(name, shape[0], out, n, gate)


def _check_out(name: str, rows: int, out: Tensor, n: int, gate: str = "") -> None:
    width, types = (n // 2, FLOATS) if gate else (n, (torch.float32,))
    if out.shape != (rows, width) or out.dtype not in types or out.stride(1) != 1:
        wanted = "fp32 or bf16" if gate else "fp32"
        raise InputError(f"{name}: out must be {wanted} [{rows}, {width}] with rows in one piece; found {list(out.shape)} of {out.dtype}")


def _layer(format: str) -> PlainLinear | PackedLinear | NarrowLinear:
    if format in PLAIN:
        return PlainLinear(format)
    if format in E4M3:
        return NarrowLinear(format)
    return GatheringLinear(format) if LINEAR_FORMATS[format]["scale"][1] else PackedLinear(format)


KERNELS = {linear_op(format): _layer(format) for format in LINEAR_FORMATS}
KERNELS |= {linear_op(format, CODED): CodedLinear(format) for format in FOUR_BITS}
