"""Gluon without a GPU and without a compiler: a kernel's source runs on numpy arrays, program after program.

Layouts say where numbers lie, not what they are, so they are not looked at here: that each conversion only renames registers is for
the compiler to say (test_streamed.py compiles). Memory is checked: a load or store outside its tensor fails, and what a mask leaves
out without a value is NaN or random.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from tests.triton.ptx import execute

CALLED = ("slipstream.ops.triton.pairs", "slipstream.ops.triton.ends")  # whose functions other kernels call, and each those before it
NOISE = np.random.default_rng(0)
PROGRAM = {"id": (0, 0, 0), "count": (1, 1, 1)}


@dataclass(frozen=True)
class Kind:
    """A type of numbers; bf16 and fp16 are kept as fp32 numbers."""

    name: str
    numpy: type
    bits: int


FP32, BF16, FP16 = Kind("fp32", np.float32, 32), Kind("bf16", np.float32, 16), Kind("fp16", np.float32, 16)
WHOLE = {name: Kind(name, getattr(np, name), 8 * np.dtype(name).itemsize) for name in ("int8", "uint8", "int16", "int32", "int64")}
OF_TORCH = {torch.float32: FP32, torch.bfloat16: BF16, torch.float16: FP16} | {getattr(torch, name): kind for name, kind in WHOLE.items()}
OF_TORCH[torch.float8_e4m3fn] = E4M3 = Kind("e4m3", np.float32, 8)


@dataclass(frozen=True)
class Pointer:
    """Places in a tensor's memory, in numbers of `kind`."""

    memory: torch.Tensor
    kind: Kind
    at: np.ndarray = field(default_factory=lambda: np.int64(0))

    dtype = property(lambda self: SimpleNamespace(element_ty=self.kind))

    def __add__(self, offset) -> "Pointer":
        return Pointer(self.memory, self.kind, self.at + data(offset).astype(np.int64))

    def to(self, kind: Kind, bitcast: bool) -> "Pointer":
        assert bitcast
        return Pointer(self.memory, kind, self.at)

    def numbers(self) -> torch.Tensor:
        """All numbers from the tensor's first on, as far as its storage goes."""
        name = {"int32": torch.int32}.get(self.kind.name, self.memory.dtype)
        whole = torch.empty(0, dtype=self.memory.dtype).set_(self.memory.untyped_storage())[self.memory.storage_offset() :]
        return whole.view(name)


@dataclass(frozen=True)
class Block:
    """A tensor of the kernel."""

    data: np.ndarray
    kind: Kind

    shape = property(lambda self: list(self.data.shape))
    type = property(lambda self: SimpleNamespace(layout=SimpleNamespace(shape=self.shape)))

    def to(self, kind: Kind) -> "Block":
        if kind is BF16 and self.kind is FP32:
            return Block(torch.from_numpy(self.data).bfloat16().float().numpy(), kind)
        return Block(self.data.astype(kind.numpy), kind)

    def reshape(self, shape) -> "Block":
        return Block(self.data.reshape(shape), self.kind)

    def permute(self, order) -> "Block":
        return Block(self.data.transpose(order), self.kind)

    def split(self) -> tuple["Block", "Block"]:
        return Block(self.data[..., 0], self.kind), Block(self.data[..., 1], self.kind)


@dataclass(frozen=True)
class Shared:
    """Shared memory: views of one array, which is NaN, or the greatest whole number, where nothing was stored."""

    data: np.ndarray
    kind: Kind

    def index(self, number: int) -> "Shared":
        return Shared(self.data[number], self.kind)

    def slice(self, start: int, length: int, dim: int = 0) -> "Shared":
        return Shared(self.data[(slice(None),) * dim + (slice(start, start + length),)], self.kind)

    def permute(self, order) -> "Shared":
        return Shared(self.data.transpose(order), self.kind)

    def load(self, layout) -> Block:
        assert layout.shape == list(self.data.shape), "a layout of another shape"
        return Block(self.data.copy(), self.kind)

    def store(self, block: Block) -> None:
        self.data[...] = block.data


def data(x) -> np.ndarray:
    return x.data if isinstance(x, Block) else np.asarray(x)


def _operator(name: str):
    def operator(self, other=None):
        arguments = () if other is None else (data(other),)
        if isinstance(other, Pointer):
            return other + self
        with np.errstate(over="ignore"):
            found = getattr(self.data, name)(*arguments)
        return Block(found, self.kind if found.dtype != bool else Kind("int1", bool, 1))

    return operator


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "mod", "lt", "le", "gt", "ge", "eq", "and", "or", "lshift", "neg"):
    setattr(Block, f"__{_name}__", _operator(f"__{_name}__"))


def load(pointer: Pointer, mask=None, other=None, cache_modifier="", eviction_policy="") -> Block:
    numbers, at = pointer.numbers(), np.asarray(pointer.at)
    wanted = np.broadcast_to(True if mask is None else data(mask), at.shape)
    assert (at[wanted] >= 0).all() and (at[wanted] < len(numbers)).all(), "read outside of the tensor"
    left_out = NOISE.integers(0, 1 << 30, at.shape) if other is None else np.full(at.shape, other)
    found = numbers[torch.from_numpy(np.where(wanted, at, 0))]
    found = found.float().numpy() if pointer.kind in (BF16, FP16, FP32) else found.numpy()
    return Block(np.where(wanted, found, left_out).astype(pointer.kind.numpy), pointer.kind)


def store(pointer: Pointer, value, mask=None) -> None:
    numbers, at = pointer.numbers(), np.asarray(pointer.at)
    at, wanted = np.broadcast_arrays(at, True if mask is None else data(mask))
    assert (at[wanted] >= 0).all() and (at[wanted] < len(numbers)).all(), "written outside of the tensor"
    numbers[torch.from_numpy(at[wanted])] = torch.from_numpy(np.broadcast_to(data(value), at.shape)[wanted].copy()).to(numbers.dtype)


class Copies:
    """Copies to shared memory that are on their way: what is not waited for has not come."""

    def __init__(self):
        self.groups, self.open = [], []

    def async_copy_global_to_shared(self, to: "Shared", source: Pointer) -> None:
        self.open.append((to, source))

    def commit_group(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def wait_group(self, number: int) -> None:
        while len(self.groups) > number:
            for to, source in self.groups.pop(0):
                to.store(load(source))


def atomic_add(pointer: Pointer, value: int, sem: str, scope: str) -> int:
    before = int(pointer.numbers()[int(pointer.at)])
    pointer.numbers()[int(pointer.at)] += value
    return before


def assembly(text: str, constraints: str, arguments: list[Block], kinds, pure: bool, pack: int) -> tuple[Block, ...]:
    """What PTX makes of 32-bit registers: halves, bf16; or of fp32 numbers: a pair of bf16."""
    if constraints == "=r,f":
        assert pack == 1 and kinds is WHOLE["int32"]
        return Block(execute(text, {"$1": arguments[0].data.view(np.uint32)})["$0"].view(np.int32), kinds)
    count = len(kinds)
    assert pack == 1 and constraints.startswith("=h," * count + "r") and set(kinds) == {BF16}
    registers = {f"${count + number}": argument.data.astype(np.int32).view(np.uint32) for number, argument in enumerate(arguments)}
    found = execute(text, registers)
    return tuple(Block((found[f"${number}"].astype(np.uint32) << 16).view(np.float32), BF16) for number in range(count))


def mma(left: Block, right: Block, total: Block) -> Block:
    assert left.kind is BF16 and right.kind is BF16 and left.shape[-1] % 16 == 0
    return Block((left.data.astype(np.float64) @ right.data + total.data).astype(np.float32), FP32)


def group_mma(left: Block | Shared, right: Shared, total: Block, use_acc: bool = True, is_async: bool = False) -> Block:
    assert (isinstance(left, Shared) or left.kind is BF16) and left.data.shape[-1] % 16 == 0
    return Block((left.data.astype(np.float64) @ right.data + (total.data if use_acc else 0)).astype(np.float32), FP32)


@dataclass(frozen=True)
class Described:
    """A matrix as the copy engine is told of it."""

    base: torch.Tensor
    block_shape: list[int]
    layout: SimpleNamespace

    dtype = property(lambda self: OF_TORCH[self.base.dtype])

    @classmethod
    def from_tensor(cls, base: torch.Tensor, block_shape: list[int], layout: SimpleNamespace) -> "Described":
        return cls(base, block_shape, layout)


class Barriers:
    """Barriers that count bytes, and the copies that they wait for, which come at once. In a barrier's memory: its phase, 2^32 to one, and
    what it still expects."""

    MBarrierLayout = SimpleNamespace

    @staticmethod
    def init(barrier: Shared, count: int) -> None:
        assert count == 1
        barrier.data[...] = 0

    @staticmethod
    def expect(barrier: Shared, size: int, pred: bool) -> None:
        if pred:
            assert barrier.data[0] % (1 << 32) == 0, "expected anew before all has come"
            barrier.data[...] += size

    @staticmethod
    def wait(barrier: Shared, phase: int) -> None:
        assert (barrier.data[0] >> 32) % 2 != phase, "waits for ever"

    @staticmethod
    def async_copy_global_to_shared(source, at: list[int], barrier: Shared, target: Shared, pred: bool) -> None:
        if not pred:
            return
        assert source.block_shape == list(target.data.shape) and min(at) >= 0
        part = source.base[tuple(slice(start, start + size) for start, size in zip(at, source.block_shape, strict=True))]
        part = part.numpy() if source.dtype in WHOLE.values() else part.float().numpy()
        target.data[...] = 0
        target.data[tuple(slice(0, size) for size in part.shape)] = part
        barrier.data[...] -= target.data.size * source.base.element_size()
        assert barrier.data[0] % (1 << 32) < 1 << 31, "more has come than was expected"
        if barrier.data[0] % (1 << 32) == 0:
            barrier.data[...] += 1 << 32


def language() -> SimpleNamespace:
    """What kernels call `gl`."""

    def both(function):
        return lambda a, b: int(function(a, b)) if not isinstance(a, Block) else Block(function(a.data, data(b)), a.kind)

    def broadcast(a: Block, b) -> tuple[Block, None]:
        shape = np.broadcast_shapes(data(a).shape, b.at.shape if isinstance(b, Pointer) else data(b).shape)
        return Block(np.broadcast_to(a.data, shape), a.kind), None

    def shaped(*names):
        return {name: lambda *arguments: SimpleNamespace(shape=arguments[-1]) for name in names}

    return SimpleNamespace(
        **WHOLE, float32=FP32, bfloat16=BF16, float8e4nv=E4M3, constexpr=lambda x: x, static_range=range,
        load=load, store=store, atomic_add=atomic_add,
        **shaped("DistributedLinearLayout", "BlockedLayout", "SliceLayout", "DotOperandLayout"),
        **shaped("NVMMADistributedLayout"), NVMMASharedLayout=lambda *arguments, **named: SimpleNamespace(),
        allocate_shared_memory=lambda kind, shape, layout: Shared(
            np.full(shape, np.iinfo(kind.numpy).max if kind in WHOLE.values() else np.nan, kind.numpy), kind
        ),
        multiple_of=lambda x, values: x, max_contiguous=lambda x, values: x,
        pointer_type=lambda kind: kind, convert_layout=lambda x, layout, assert_trivial: x, broadcast=broadcast,
        arange=lambda start, end, layout: Block(np.arange(start, end, dtype=np.int32), WHOLE["int32"]),
        full=lambda shape, value, kind, layout: Block(np.full(shape, value, kind.numpy), kind),
        zeros=lambda shape, kind, layout: Block(np.zeros(shape, kind.numpy), kind),
        expand_dims=lambda x, axis: Block(np.expand_dims(x.data, axis), x.kind), minimum=both(np.minimum),
        join=lambda a, b: Block(np.stack([a.data, b.data], -1), a.kind), inline_asm_elementwise=assembly,
        fma=lambda a, b, c: Block((a.data.astype(np.float64) * b.data + c.data).astype(np.float32), FP32),
        sum=lambda x, axis: Block(x.data.sum(axis), x.kind), thread_barrier=lambda: None,
        program_id=lambda axis: PROGRAM["id"][axis], num_programs=lambda axis: PROGRAM["count"][axis],
    )  # fmt: skip


def activated(x: Block, activation: str) -> Block:
    """Activations by torch, fp32 (their own kernels: cases_rows.py)."""
    act, options = {"silu": (F.silu, {}), "gelu": (F.gelu, {}), "gelu_tanh": (F.gelu, {"approximate": "tanh"})}[activation]
    return Block(act(torch.from_numpy(x.data), **options).numpy(), FP32)


class Kernel:
    """What `gluon.jit` makes of a function: called by others as it is, or launched over a grid."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments, **constants):
        return self.function(*arguments, **constants)

    def __getitem__(self, grid):
        """`launch_pdl` says when programs may begin, which is nothing here."""

        def launch(*arguments, num_warps, num_stages, enable_fp_fusion, launch_pdl=False, maxnreg=0, **constants):
            free = [Pointer(a, OF_TORCH[a.dtype]) if isinstance(a, torch.Tensor) else a for a in arguments]
            PROGRAM["count"] = grid
            for place in np.ndindex(*reversed(grid)):
                PROGRAM["id"] = tuple(reversed(place))
                self.function(*free, **constants)

        return launch


def imported(name: str, **others: ModuleType) -> ModuleType:
    """The module of a kernel, in a form that runs here; the real one is not touched. `others`: what it finds under their names."""
    gluon = ModuleType("triton.experimental.gluon")
    gluon.jit = lambda function=None, **options: Kernel(function) if function else Kernel
    gluon.constexpr_function, gluon.language = lambda function: function, language()
    ampere, hopper = ModuleType("ampere"), ModuleType("hopper")
    ampere.mma_v2, hopper.warpgroup_mma = mma, group_mma
    hopper.mbarrier, hopper.tma = Barriers, Barriers
    hopper.warpgroup_mma_wait = lambda outstanding, deps: deps[0] if len(deps) == 1 else tuple(deps)
    hopper.async_copy = Copies()
    spec = importlib.util.spec_from_file_location(f"{name}_by_hand", importlib.util.find_spec(name).origin)
    module = importlib.util.module_from_spec(spec)
    nvidia = f"{gluon.__name__}.language.nvidia"
    above = ModuleType("triton.experimental")  # in whose place the real one may have the real Gluon by now
    above.gluon = gluon
    host = ModuleType(f"{gluon.__name__}.nvidia.hopper")
    host.TensorDescriptor = Described
    chain = ModuleType("slipstream.ops.triton.chain")  # one program after the other: its turn has always come
    chain.await_turn = lambda: None
    fakes = {above.__name__: above, gluon.__name__: gluon, f"{nvidia}.ampere": ampere, f"{nvidia}.hopper": hopper, host.__name__: host}
    elementary = ModuleType("slipstream.ops.triton.elementary")
    elementary.activated, elementary.inverse_root = activated, lambda x: Block(np.float32(1) / np.sqrt(x.data), FP32)
    fakes |= {chain.__name__: chain, elementary.__name__: elementary, module.__name__: module, **others}
    for real in ("packed", "fused"):  # with all that they import: what is imported below is forgotten
        importlib.import_module(f"slipstream.ops.triton.{real}")
    for called in CALLED[: CALLED.index(name)] if name in CALLED else CALLED:
        fakes.setdefault(called, imported(called))
    with mock.patch.dict(sys.modules, fakes):
        spec.loader.exec_module(module)
    return module


@cache
def products() -> SimpleNamespace:
    """The modules of products that take an end, by hand."""
    parent = ModuleType("slipstream.ops.triton")
    parent.streamed = imported("slipstream.ops.triton.streamed")
    others = {parent.__name__: parent, f"{parent.__name__}.streamed": parent.streamed}
    modules = {name: imported(f"{parent.__name__}.{name}", **others) for name in ("folded", "carried", "bulk")}
    return SimpleNamespace(streamed=parent.streamed, **modules)
