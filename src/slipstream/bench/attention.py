"""Attention by itself: chunks of prompts and decoding rows over long contexts, beside bandwidth and peak probed between the turns.

Owns the sizes and the order of turns. What is held against the machine is what no kernel can avoid: four operations per row, head,
visible key and number of it, and the keys and values of every request read once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slipstream.base.registry import unknown
from slipstream.bench.layers import APART, FEW, PROBE, Shares
from slipstream.cost.step import ATTENTION_ARITHMETIC, kv_size
from slipstream.ops import KV, AttentionRows, Kernels, probe
from slipstream.ops.reference.cached import stored
from slipstream.worker.pool import TYPES, KVPool

PAGE = 16


@dataclass(frozen=True)
class Point:
    """`rows` neighbouring rows of each of `requests` texts, the last of which sees `context` keys."""

    rows: int
    context: int
    requests: int = 1


POINTS = (Point(512, 512), Point(512, 2048), Point(512, 8192), Point(5, 8192), Point(1, 8192), Point(1, 2048, 8))


@dataclass(frozen=True)
class Ask:
    """What to measure: KV types, points, a model's heads, repetitions, threads."""

    types: tuple[str, ...] = ("bf16",)
    points: tuple[Point, ...] = POINTS
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    repeat: int = 5
    threads: int = 1


@dataclass
class Place(Shares):
    """One KV type at one point; the other fields as in `Layer`."""

    type: str
    point: Point
    bytes: int
    operations: int
    seconds: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """The tensors of a call: as many caches as it takes to fill APART."""

    qkv: Tensor
    caches: list[KV]
    rows: AttentionRows
    out: Tensor


def run(ask: Ask, kernels: Kernels, say: Callable[[str], None] = lambda line: None) -> list[Place]:
    """Measures, and says after each repetition that it is done."""
    for type in ask.types:
        if type not in TYPES:
            raise unknown("KV type", type, TYPES)
    scenes = {(type, point): _scene(kernels, ask, type, point) for type in ask.types for point in ask.points}
    places = [Place(type, point, _bytes(ask, type, point), _operations(ask, point)) for type, point in scenes]
    for repetition in range(ask.repeat + 1):  # the first one warms up
        for place in places:
            seconds = _seconds(kernels, ask, scenes[place.type, place.point])
            if repetition:
                place.seconds.append(seconds)
                place.bandwidth.append(probe.read_bandwidth(APART, ask.threads, PROBE))
                place.peak.append(probe.peak(ATTENTION_ARITHMETIC["cpu"][place.type], ask.threads, PROBE))
        say(f"repetition {repetition} of {ask.repeat} done" if repetition else "warm")
    return places


def _bytes(ask: Ask, type: str, point: Point) -> int:
    return kv_size(type, 2 * point.requests * point.context * ask.kv_heads * ask.head_dim, ask.head_dim)


def _operations(ask: Ask, point: Point) -> int:
    keys = point.rows * point.context - point.rows * (point.rows - 1) // 2  # seen by all rows of a request
    return 4 * point.requests * keys * ask.heads * ask.head_dim


def _scene(kernels: Kernels, ask: Ask, type: str, point: Point) -> Scene:
    """Random numbers; the pages of each request lie one after the other, as a pool gives them away that little has happened to."""
    draw = torch.Generator().manual_seed(1)
    pages, rows = -(-point.context // PAGE), point.requests * point.rows
    copies = -(-APART // _bytes(ask, type, point)) if point.rows <= FEW else 1
    pool = KVPool((copies, 2, point.requests * pages, ask.kv_heads, PAGE, ask.head_dim), type, kernels).tensor
    for layer in pool:
        layer[:] = stored(torch.randn((*layer.shape[:-1], ask.head_dim), generator=draw), TYPES[type])
    positions = torch.arange(point.context - point.rows, point.context, dtype=torch.int32).repeat(point.requests)
    return Scene(
        qkv=torch.randn(rows, (ask.heads + 2 * ask.kv_heads) * ask.head_dim, generator=draw),
        caches=[KV(*layer) for layer in pool],
        rows=AttentionRows(
            request=torch.arange(point.requests, dtype=torch.int32).repeat_interleave(point.rows),
            positions=positions,
            linear=positions + 1,
            tail_start=torch.zeros(rows + 1, dtype=torch.int32),
            tail_slots=torch.zeros(0, dtype=torch.int32),
            page_table=torch.arange(point.requests * pages, dtype=torch.int32).view(point.requests, pages),
        ),
        out=torch.empty(rows, ask.heads * ask.head_dim),
    )


def _seconds(kernels: Kernels, ask: Ask, scene: Scene) -> float:
    began = time.perf_counter()
    for kv in scene.caches:
        kernels.attention(scene.qkv, kv, scene.rows, ask.heads, ask.head_dim**-0.5, 0, scene.out)
    return (time.perf_counter() - began) / len(scene.caches)
