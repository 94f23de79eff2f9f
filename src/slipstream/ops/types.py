"""What the candidates of an op share: how they answer, and the arguments that come in groups.

Owns data definitions only. Must not know any candidate, the cache's bookkeeping or the model.
All tensors are contiguous and on the device of the kernels; ids and indices are int32, other numbers fp32 unless said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from slipstream.base.errors import InputError

OPS = ("embed", "norm", "rope_write", "attention", "gated", "sample", "logprobs", "move")
ROUND_OPS = ("lay_out", "walk")  # the numbers of rounds (worker/rounds.py), which no host must wait for
FAMILY_OPS = (  # asked for by some families only: a device may lack them
    *("layer_norm", "norm_slices", "attention_softcap", "gated_gelu", "gated_gelu_tanh", "gelu", "gelu_tanh", "add", "scale", "softcap"),
    *("route", "routed", "gate_rows", "gated_clamped", "attention_sinks", "spread"),
)
LINEAR_FORMATS = {  # what a linear layer stores: tensor -> (type, how many inputs share one of its numbers; 0: all)
    "fp32": {"weight": (torch.float32, 1)},
    "bf16": {"weight": (torch.bfloat16, 1)},
    "int8": {"weight": (torch.int8, 1), "scale": (torch.float32, 0)},
    "q8_0": {"weight": (torch.int8, 1), "scale": (torch.float16, 32)},
    "int4": {"weight": (torch.uint8, 2), "scale": (torch.float16, 32)},
    "int4_zero": {"weight": (torch.uint8, 2), "scale": (torch.float16, 32), "least": (torch.uint8, 32)},
    "q4_k": {
        **{"weight": (torch.uint8, 2), "scale": (torch.uint8, 32), "least": (torch.uint8, 32)},
        **{"group": (torch.float16, 256), "group_least": (torch.float16, 256)},
    },
    "q6_k": {"weight": (torch.int8, 1), "scale": (torch.int8, 16), "group": (torch.float16, 256)},
    "int4_64": {"weight": (torch.uint8, 2), "scale": (torch.float16, 64)},
    "int4_128": {"weight": (torch.uint8, 2), "scale": (torch.float16, 128)},
    "fp8": {"weight": (torch.float8_e4m3fn, 1), "scale": (torch.float32, 0)},
    "fp8_block": {"weight": (torch.float8_e4m3fn, 1), "scale": (torch.float32, 128)},
    "fp6": {"weight": (torch.uint8, 2), "upper": (torch.uint8, 4), "scale": (torch.float32, 0)},
}
FLOATS = ("fp32", "bf16")  # linear formats that leave activations as they are
AT_ONCE = {"fp32": 4, "bf16": 2, "fp8": 2}  # formats of experts that a GPU runs all at once -> bytes of a number between their products
E4M3 = ("fp8", "fp8_block")  # linear formats that round activations to e4m3
GPU_ONLY = (*E4M3, "fp6")  # linear formats that no CPU multiplies
LANES = 16  # bytes that lie together where several weights share one
BLOCK = 32  # inputs of a block of whole-number weights
CODED = "fp8"  # what the user says for activations in e4m3, a scale per row, where weights are of 4 bits: GPUs only
SPANS = {"32": 1, "128": 4, "row": 0, CODED: 0}  # activations that share a scale, as the user says it -> blocks, 0 for all of a row
COARSER = {"int8": ("128", "row"), "int4": ("row",), "int4_64": ("row",), "int4_128": ("128", "row")}  # what pays besides 32
FOUR_BITS = ("int4", "int4_zero", "int4_64", "int4_128")  # linear formats that multiply activations in e4m3
SEGMENT = 512  # keys per attention segment, by absolute position (docs/numerics.md, section 3)
SCALE_BYTES = 4  # of the scale of a key or value in int8 or e4m3, fp32
CODES_ROOM = 16  # bytes behind a row of activations in e4m3 that has one scale: the scale, fp32, and as many as keep rows aligned


def linear_op(format: str, activations: str = "32") -> str:
    """Name of the op that serves a linear layer: "linear_int8", or "linear_int8/row" with a coarser scale of activations."""
    return f"linear_{format}" if format in FLOATS or activations == "32" else f"linear_{format}/{activations}"


def scales_of(format: str) -> tuple[str, ...]:
    """The scales of activations that a linear format has kernels for, on some device."""
    return ("32", *COARSER.get(format, ()), *((CODED,) if format in FOUR_BITS else ()))


def check_activations(format: str, activations: str) -> None:
    """InputError where a linear format has no kernel for such scales of activations; those that leave them alone have one for all."""
    known = scales_of(format)
    if format not in FLOATS and activations not in known:
        others = ", ".join(name for name in LINEAR_FORMATS if activations in scales_of(name))
        raise InputError(
            f"activations={activations!r}: {format} weights are computed with {' or '.join(known)}; leave it out, or take quant={others}"
        )


def of_linear_op(op: str) -> tuple[str, str]:
    """(format, activations) of such a name."""
    format, _, activations = op.removeprefix("linear_").partition("/")
    return format, activations or "32"


def gpu_only(op: str) -> bool:
    """Whether no CPU computes a linear op but the reference, which is for tests then."""
    format, activations = of_linear_op(op)
    return format in GPU_ONLY or activations == CODED


EXPERTS_OPS = tuple(f"experts_{format}" for format in LINEAR_FORMATS)
GATE_UP_OPS = tuple(f"gate_up_{format}" for format in LINEAR_FORMATS)
LINEAR_OPS = tuple(linear_op(format, activations) for format in LINEAR_FORMATS for activations in scales_of(format))


@dataclass(frozen=True, slots=True)
class Declined:
    """A candidate's answer when it cannot serve an op; the reason is shown by `slipstream doctor`."""

    reason: str


class LinearKernel(Protocol):
    """A linear layer of one weight format: `out = x @ weight.T + bias`.

    Attributes:
        name: "<candidate>_<format>".
        reads: the type that x is rounded to before anything else; x may be given in it, or in a wider one. e4m3 stands for rows
            [k + CODES_ROOM] of codes with their scale behind them. Only kernels that round have it (`reads_of`).
    """

    name: str
    reads: torch.dtype

    def prepare(self, stored: dict[str, Tensor]) -> Any:
        """Packs the stored tensors of one layer once, at load; the result is opaque to everyone but `run`.

        Args:
            stored: the tensors that LINEAR_FORMATS names, each [n, k / inputs that share a number] ([n] where all do). Two 4-bit
                weights share a byte: byte j of a block of 32 inputs holds input j, and above it input j + 16; four of 2 bits likewise:
                byte j of 64 inputs holds input j in its lowest bits, then j + 16, j + 32 and j + 48.
                int8, q8_0: w = weight * scale; int4: (weight - 8) * scale; int4_zero: (weight - least) * scale;
                q4_k: group * scale * weight - group_least * least; q6_k: group * scale * weight; fp8, fp8_block: weight * scale;
                fp6: e3m2 * scale, sign and upper bit of the exponent in `upper`, the other four bits in `weight`.

        Raises:
            InputError: a tensor is missing, or of the wrong type or shape.
        """

    def run(self, x: Tensor, prepared: Any, bias: Tensor | None, out: Tensor) -> None:
        """Writes out [rows, n], whose rows may lie apart, from x [rows, k] and bias [n] or None."""

    def fuses(self, rows: int, prepared: Any) -> bool:
        """Whether x, or out, may be a Norming for so many rows. Only kernels that can have it."""

    def save(self, prepared: Any) -> dict[str, Tensor]:
        """What `prepare` made, as tensors that may be kept on disk. Only kernels for which packing takes time have it."""

    def restore(self, saved: dict[str, Tensor]) -> tuple[Any, int]:
        """(the same from what was kept, outputs of the layer)."""

    def gather(self, ids: Tensor, prepared: Any, out: Tensor) -> None:
        """Writes rows `ids` [rows] of the weight, unpacked, to out [rows, k]. Only kernels whose scales are shared by inputs have it."""


@dataclass(frozen=True, slots=True)
class Activation:
    """What a gated layer makes of gate and up: a name of `MoeSpec.activation`, and the limit and the slope of "clamped"."""

    name: str
    limit: float = 0.0
    slope: float = 1.0


class ExpertsKernel(Protocol):
    """All experts of a layer of one weight format, at once; nothing in it waits for the device.

    Attributes:
        name: "<candidate>_experts_<format>".
    """

    name: str

    def prepare(self, gate_up: dict[str, Tensor], down: dict[str, Tensor], biases: Sequence[Tensor] = ()) -> Any:
        """Packs the experts once, at load; the result is opaque to everyone but `run`.

        Args:
            gate_up, down: the tensors that LINEAR_FORMATS names, one expert behind the other: [experts, n, ...]; gate before up.
            biases: of both, [experts, 2 * width] and [experts, hidden], or none.

        Raises:
            InputError: they do not fit.
        """

    def run(self, x: Tensor, experts: Tensor, shares: Tensor, prepared: Any, activation: Activation, out: Tensor) -> None:
        """out [rows, hidden] = the sum over each row's experts of share * expert(x), in ascending order of the experts' numbers.

        Args:
            x: [rows, hidden]
            experts, shares: what `route` wrote. [rows, chosen]
        """


@dataclass(slots=True)
class Norming:
    """An RMSNorm of the residual stream in two halves. The linear layer before it adds to the stream and begins the norm: it is `out`
    there. The one behind ends it: it is `x` there. Only where both kernels say that they fuse, and both are of one candidate.

    Attributes:
        stream: changed in place by the layer before. [rows, hidden]
        weight, eps: of the norm. [hidden]
        scaled: bf16(stream * weight), which the layer before writes. [rows, hidden]
        squares: sums of squares of parts of each row of the stream, which it writes too, as it likes; there are [rows, hidden].
        parts: how many of a row, which it says.
    """

    stream: Tensor
    weight: Tensor
    eps: float
    scaled: Tensor
    squares: Tensor
    parts: int = 0


class GateUpKernel(Protocol):
    """Gate and up of a feed-forward layer as one linear layer of one weight format, and what is gated of them.

    Attributes:
        name: "<candidate>_gate_up_<format>".
        reads: see LinearKernel.
        unit: serves layers whose inner size is a multiple of it.
    """

    name: str
    reads: torch.dtype
    unit: int

    def prepare(self, stored: dict[str, Tensor], bias: Tensor | None) -> Any:
        """Packs the layer once, at load; the result is opaque to everyone but `run`.

        Args:
            stored: the tensors that LINEAR_FORMATS names, gate before up: [2 * inner, ...].
            bias: likewise [2 * inner], or None.
        """

    def fuses(self, rows: int, prepared: Any) -> bool:
        """Whether x may be a Norming for so many rows."""

    def run(self, x: Tensor | Norming, prepared: Any, activation: str, products: Tensor, out: Tensor) -> None:
        """out [rows, inner] = activation(gate(x)) * up(x), activation "silu", "gelu" or "gelu_tanh", from x [rows, k]; fp32 or bf16.
        `products` [rows, 2 * inner] fp32 is there to be written to."""


@dataclass(slots=True)
class KV:
    """One layer's keys and values: views of the pool. slot = page * page_size + offset within the page.

    Attributes:
        keys, values: [pages, kv_heads, page_size, head_dim], fp32 or bf16; or [pages, kv_heads, page_size, head_dim + 4], where each
            key or value has a scale, fp32: in int8 its last four bytes; in e4m3 see `coded_pages`.
    """

    keys: Tensor
    values: Tensor

    @property
    def head_dim(self) -> int:
        return self.keys.shape[3] - scale_bytes(self.keys.dtype)


def scale_bytes(dtype: torch.dtype) -> int:
    """Bytes that a key or value of a cache of this type has besides its numbers."""
    return SCALE_BYTES if dtype in (torch.int8, torch.float8_e4m3fn) else 0


def coded_pages(cached: Tensor) -> tuple[Tensor, Tensor]:
    """Codes as bytes [..., page_size, head_dim] and scales [..., page_size] of an e4m3 cache or pool, views of it.

    A page of a head holds the codes of all its tokens, then their scales: so codes begin where vectors of 16 bytes do.
    head_dim must be a multiple of 4.
    """
    page_size, row = cached.shape[-2:]
    flat = cached.view(torch.uint8).flatten(-2)  # [..., page_size * row]
    size = page_size * (row - SCALE_BYTES)
    return flat[..., :size].unflatten(-1, (page_size, -1)), flat[..., size:].view(torch.float32)


@dataclass(slots=True)
class Company:
    """Rows of several requests that begin with the same keys, on the same pages: these may be read once for a whole group.

    Attributes:
        members: numbers of rows, those of a group one after the other. [rows]
        groups: the group of each of these; -1 behind the last. [rows]
        shared: by row, how many of its first keys its group shares, all of them found through the page table; 0: it has none. [rows]
    """

    members: Tensor
    groups: Tensor
    shared: Tensor


@dataclass(slots=True)
class Few:
    """Rows of requests that have few rows in a step where others have many.

    Attributes:
        members: their numbers, in order; -1 behind the last. [any]
        marks: by row, 1 if it is among them, else 0. [rows]
    """

    members: Tensor
    marks: Tensor


@dataclass(slots=True)
class AttentionRows:
    """Which keys each row sees, the same for all layers of a step.

    Keys 0 .. linear-1 of a row are found through its request's page table; the rest, up to and with its own position,
    are tail slots in path order, so that key number p is always position p: linear + tail == position + 1.

    Attributes:
        request: row -> row of page_table. [rows]
        positions: absolute position of the row. [rows]
        linear: how many keys the page table gives. [rows]
        tail_start: bounds of each row's part of tail_slots. [rows + 1]
        tail_slots: slots past `linear`; none for trunk rows. [tails or more]
        page_table: page ids of each request. [requests, max_pages]
        company: rows that share keys; who does not care may leave it alone.
        few: which rows stand almost alone beside requests of many; this too.
    """

    request: Tensor
    positions: Tensor
    linear: Tensor
    tail_start: Tensor
    tail_slots: Tensor
    page_table: Tensor
    company: Company | None = None
    few: Few | None = None


@dataclass(slots=True)
class SampleRows:
    """Sampling parameters per row (docs/numerics.md, section 4).

    Attributes:
        temperature: 0 is greedy. [rows]
        top_k: keep the k likeliest, 0 keeps all. [rows] int32
        top_p: share of the mass to keep, 1 keeps all. [rows]
        min_p: least probability relative to the likeliest, 0 keeps all. [rows]
        seed: the bits of an unsigned 64-bit seed. [rows] int64
        position: absolute position of the token to be sampled. [rows] int32
        sample: index among the samples of one prompt. [rows] int32
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seed: Tensor
    position: Tensor
    sample: Tensor


Op = Callable[..., Any]
Layer = Callable[[Tensor, Tensor], None]  # reads [n, hidden], writes [n, hidden]; calls kernels, the same ones every time


def reads_of(kernel: LinearKernel) -> torch.dtype:
    """The narrowest type of x that serves the kernel; fp32 serves every kernel."""
    return getattr(kernel, "reads", torch.float32)


def check_stored(kernel: str, format: str, stored: dict[str, Tensor]) -> tuple[int, int]:
    """(n, k) of a linear layer; InputError unless `stored` is what LINEAR_FORMATS says."""
    wanted = LINEAR_FORMATS[format]
    if set(stored) != set(wanted) or stored["weight"].dim() != 2:
        found = {name: list(tensor.shape) for name, tensor in stored.items()}
        raise InputError(f"{kernel}: needs exactly the tensors {sorted(wanted)}, weight as [n, k]; found {found}")
    n, k = stored["weight"].shape[0], stored["weight"].shape[1] * wanted["weight"][1]
    unit = max(shared * (LANES if dtype is torch.uint8 and 1 < shared < LANES else 1) for dtype, shared in wanted.values())
    if k % unit:
        raise InputError(f"{kernel}: {k} inputs are no multiple of the {unit} that lie together; take another format")
    for name, (dtype, shared) in wanted.items():
        shape, tensor = (n, k // shared) if shared else (n,), stored[name]
        if tensor.dtype is not dtype or tensor.shape != shape:
            raise InputError(f"{kernel}: {name} is {tensor.dtype} {list(tensor.shape)}, needs {dtype} {list(shape)}")
    return n, k
