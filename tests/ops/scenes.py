"""Inputs for the tests of ops: random rows over a paged cache, weights of every format, rows to sample."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slipstream.ops import KV, AttentionRows, Kernels, SampleRows
from slipstream.ops.reference import cached
from slipstream.ops.types import COARSER, E4M3, FLOATS, GPU_ONLY, LINEAR_FORMATS, SPANS, scale_bytes

FORMATS = tuple(name for name in LINEAR_FORMATS if name not in GPU_ONLY)  # that a CPU computes
INTEGERS = tuple(name for name in FORMATS if name not in FLOATS)
WAYS = tuple((name, activations) for name in FORMATS for activations in ("32", *COARSER.get(name, ())))  # to compute a linear layer


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Scene:
    """Attention inputs and, for each row, the keys and values it should see: [position + 1, kv_heads, head_dim]."""

    qkv: Tensor
    kv: KV
    rows: AttentionRows
    heads: int
    keys: list[Tensor]
    values: list[Tensor]


def build_scene(
    rows: list[tuple[int, int, int]],
    *,
    page_size: int = 16,
    kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    layout: int = 0,
) -> Scene:
    """Rows (request, position, how many of its keys are tail slots). The same row has the same query, keys and values in
    every scene; `layout` and `page_size` only decide where they lie. Slots that nobody may read hold NaN."""
    requests = max(request for request, _, _ in rows) + 1
    linear = [max([p + 1 - tail for r, p, tail in rows if r == request], default=0) for request in range(requests)]
    table_width = max(-(-length // page_size) for length in linear) + 1
    tails = sum(tail for _, _, tail in rows)
    pages = requests * table_width + -(-tails // page_size) + 1
    order = torch.randperm(pages, generator=torch.Generator().manual_seed(layout))
    page_table = order[: requests * table_width].view(requests, table_width)
    spare = order[requests * table_width :]
    spare_slots = (spare[:, None] * page_size + torch.arange(page_size)).flatten()
    spare_slots = spare_slots[torch.randperm(len(spare_slots), generator=torch.Generator().manual_seed(layout + 1))]
    row = (head_dim + scale_bytes(dtype)) * dtype.itemsize
    kv = KV(*(torch.full((pages, kv_heads, page_size, row), 255, dtype=torch.uint8).view(dtype) for _ in range(2)))  # NaN, -1 in int8
    longest = max(position for _, position, _ in rows) + 1
    contents = [random(2, 4096, kv_heads, head_dim, seed=100 + request)[:, :longest] for request in range(requests)]

    def write(slots: Tensor, content: Tensor) -> None:
        cached.put(kv.keys, slots // page_size, slots % page_size, content[0])
        cached.put(kv.values, slots // page_size, slots % page_size, content[1])

    for request, length in enumerate(linear):
        position = torch.arange(length)
        write(page_table[request][position // page_size] * page_size + position % page_size, contents[request][:, :length])
    starts, tail_slots, used = [0], [], 0
    for request, position, tail in rows:
        slots = spare_slots[used : used + tail]
        write(slots, contents[request][:, position + 1 - tail : position + 1])
        tail_slots.append(slots)
        used += tail
        starts.append(used)
    heads = kv_heads * group
    width = (heads + 2 * kv_heads) * head_dim
    return Scene(
        qkv=torch.stack([random(width, seed=7919 * request + position) for request, position, _ in rows]),
        kv=kv,
        rows=AttentionRows(
            request=torch.tensor([request for request, _, _ in rows], dtype=torch.int32),
            positions=torch.tensor([position for _, position, _ in rows], dtype=torch.int32),
            linear=torch.tensor([position + 1 - tail for _, position, tail in rows], dtype=torch.int32),
            tail_start=torch.tensor(starts, dtype=torch.int32),
            tail_slots=torch.cat(tail_slots).int(),
            page_table=page_table.int().contiguous(),
        ),
        heads=heads,
        keys=[read(contents[request][0, : position + 1], dtype) for request, position, _ in rows],
        values=[read(contents[request][1, : position + 1], dtype) for request, position, _ in rows],
    )


def read(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [n, kv_heads, head_dim] as a cache of this type gives them back; fp32."""
    n, kv_heads, head_dim = rows.shape
    made = torch.zeros(1, kv_heads, n, head_dim + scale_bytes(dtype), dtype=dtype)
    places = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    cached.put(made, *places, rows)
    numbers, worth = cached.taken(made, *places)
    return numbers if worth is None else numbers * worth


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def equal_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(bits(a), bits(b))


def fitting(format: str, k: int) -> int:
    """The first number of inputs from k on that the format can store."""
    unit = 64 if format == "fp6" else max(shared for _, shared in LINEAR_FORMATS[format].values())
    return -(-k // max(unit, 1)) * max(unit, 1)


def stored(format: str, n: int, k: int) -> dict[str, Tensor]:
    """Random tensors of a linear format: every whole number may come, weights as a whole are near 1 / sqrt(k)."""
    assert k == fitting(format, k)
    draw, out = torch.Generator().manual_seed(5), {}
    for name, (dtype, shared) in LINEAR_FORMATS[format].items():
        shape = (n, k // shared) if shared else (n,)
        if format in E4M3:
            values = torch.randn(shape, generator=draw)
            out[name] = (values * 100 if name == "weight" else 2 ** (values * 3) / 300 / math.sqrt(k)).to(dtype)
        elif dtype.is_floating_point:
            scale = {"fp6": 0.1}.get(format, 0.02 if "4" in format else 0.01)
            size = {"weight": 1.0, "group": scale / 100 if format == "q4_k" else scale / 300, "group_least": scale / 20}.get(name, scale)
            values = torch.randn(shape, generator=draw) * size / math.sqrt(k)
            out[name] = (values if name == "weight" else values.abs() * 3).to(dtype)
        else:
            least, most = (-128, 128) if dtype is torch.int8 else (0, 256)
            if format == "q6_k" and name == "weight":
                least, most = -32, 32
            elif name in ("scale", "least") and dtype is torch.uint8:
                most = 16 if format == "int4_zero" else 64
            out[name] = torch.randint(least, most, shape, generator=draw, dtype=torch.int16).to(dtype)
    return out


def meaning(format: str, tensors: dict[str, Tensor]) -> Tensor:
    """The weights that stored tensors stand for, fp64 [n, k], one input at a time."""
    part = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    if format in ("fp32", "bf16"):
        return tensors["weight"].double()
    if format == "int8":
        return tensors["weight"].double() * tensors["scale"].double()[:, None]
    if format in E4M3:
        codes, scale = tensors["weight"].double(), tensors["scale"].double()
        return codes * (scale[:, None] if format == "fp8" else scale.repeat_interleave(128, 1))
    if format == "fp6":
        return e3m2(tensors) * tensors["scale"].double()[:, None]
    packed = tensors["weight"].numpy()
    k = packed.shape[1] * LINEAR_FORMATS[format]["weight"][1]
    out = np.empty((len(packed), k))
    for i in range(k):
        block, place = divmod(i, 32)
        if packed.dtype == np.uint8:
            byte = packed[:, block * 16 + place % 16]
            q = (byte & 15 if place < 16 else byte >> 4).astype(float)
        else:
            q = packed[:, i].astype(float)
        if format == "q8_0":
            out[:, i] = q * part["scale"][:, block]
        elif format in ("int4", "int4_64", "int4_128"):
            out[:, i] = (q - 8) * part["scale"][:, i * part["scale"].shape[1] // k]
        elif format == "int4_zero":
            out[:, i] = (q - part["least"][:, block]) * part["scale"][:, block]
        elif format == "q4_k":
            scale, least = part["group"][:, i // 256] * part["scale"][:, block], part["group_least"][:, i // 256] * part["least"][:, block]
            out[:, i] = scale * q - least
        else:
            out[:, i] = part["group"][:, i // 256] * part["scale"][:, i // 16] * q
    return torch.from_numpy(out)


def e3m2(tensors: dict[str, Tensor]) -> Tensor:
    """The numbers of two planes, fp64 [n, k], one input at a time, by the words of the OCP's table of FP6."""
    low, upper = (tensors[name].numpy() for name in ("weight", "upper"))
    out = np.empty((len(low), 2 * low.shape[1]))
    for i in range(out.shape[1]):
        four = low[:, i // 32 * 16 + i % 16] >> (4 * (i // 16 % 2)) & 15
        two = upper[:, i // 64 * 16 + i % 16] >> (2 * (i // 16 % 4)) & 3
        sign, exponent, fraction = two >> 1, (two & 1) * 4 + four // 4, four % 4
        size = np.where(exponent == 0, 2.0**-2 * fraction / 4, 2.0 ** (exponent.astype(int) - 3) * (1 + fraction / 4))
        out[:, i] = np.where(sign == 1, -size, size)
    return torch.from_numpy(out)


def rounded_rows(x: Tensor, activations: str) -> Tensor:
    """What linear layers of whole numbers see of x [rows, k]: multiples of max abs / 127 of each stretch, by plain loops in numpy, fp64."""
    rows = x.numpy()
    seen = np.zeros(rows.shape)
    stretch = 32 * SPANS[activations] or rows.shape[1]
    for row, to in zip(rows, seen, strict=True):
        for start in range(0, len(row), stretch):
            part = row[start : start + stretch]
            scale = np.abs(part).max() / np.float32(127)
            to[start : start + stretch] = np.rint(part / scale).astype(float) * float(scale) if scale else 0
    return torch.from_numpy(seen)


def sample_rows(count: int, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, position=None, sample=0) -> SampleRows:
    def full(value, dtype):
        return torch.full((count,), value, dtype=dtype) if not torch.is_tensor(value) else value.to(dtype)

    return SampleRows(
        temperature=full(temperature, torch.float32),
        top_k=full(top_k, torch.int32),
        top_p=full(top_p, torch.float32),
        min_p=full(min_p, torch.float32),
        seed=full(seed, torch.int64),
        position=full(torch.arange(count) if position is None else position, torch.int32),
        sample=full(sample, torch.int32),
    )


def draw(kernels: Kernels, logits: Tensor, rows: SampleRows) -> Tensor:
    out = torch.full((len(logits),), -1, dtype=torch.int32)
    kernels.sample(logits, rows, out)
    return out


def attend(kernels: Kernels, scene: Scene, window: int = 0, scale: float = 0.25) -> Tensor:
    head_dim = scene.kv.head_dim
    out = torch.full((len(scene.qkv), scene.heads * head_dim), torch.nan)
    kernels.attention(scene.qkv, scene.kv, scene.rows, scene.heads, scale, window, out)
    return out
