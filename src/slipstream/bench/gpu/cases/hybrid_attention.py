"""Attention of decode rows and a chunk of a prompt: one launch for both, or two. Decides the table MIXED of ops/triton/attention.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.bench.gpu import attention_sweep
from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.cases import attention_forms
from slipstream.bench.gpu.cases.shared_prefix import call
from slipstream.bench.gpu.deciding import Sample
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Heads, heads
from slipstream.ops.types import AttentionRows, Few

QUESTION = "Is a step of decode rows and a chunk of a prompt faster in one launch than in two, and what does it cost as it is?"
ORDER, SECONDS = 79, 60
FORMS = (  # query rows of the chunk's tiles and of the others', keys per block, warps, stages
    *((64, 16, 64, 4, 3), (64, 16, 64, 4, 2), (64, 64, 64, 4, 3), (64, 16, 32, 4, 4), (128, 16, 64, 8, 3)),
)
FORMS_CODED = ((64, 16, 64, 8, 3), (64, 64, 64, 8, 3))
DRY_FORMS = ((64, 16, 64, 4, 3),)
TABLE, APART = "one launch, by the table", "two launches, by the table"
FILL = 264
SECONDS_EACH = 0.01


@dataclass(frozen=True)
class Point:
    """`batch` rows that see `context` keys each, and `chunk` rows of a prompt with `past` keys before it; coded: the cache is in fp8."""

    batch: int
    context: int
    chunk: int
    past: int = 0
    coded: bool = False

    def __str__(self) -> str:
        return f"batch {self.batch} of {self.context}, chunk of {self.chunk} after {self.past}{' fp8' if self.coded else ''}"


POINTS = [Point(64, 4096, 512), Point(64, 4096, 2048), Point(16, 8192, 2048), Point(64, 4096, 512, 4096), Point(16, 1024, 2048)]
POINTS += [Point(128, 1024, 512), Point(4, 32768, 2048), Point(64, 4096, 512, coded=True)]
DRY_POINTS = [Point(1, 20, 4)]


def measure(bench: Bench) -> None:
    shape = heads(bench.dry)[0]
    if not bench.dry:
        compile_ahead(bench, (_variant(shape, point, form) for point in POINTS for form in _forms(bench, point)))
    limits = bench.limits()
    bench.each(bench.pick(POINTS, DRY_POINTS), str, lambda point: one(bench, limits, shape, point))


def _forms(bench: Bench, point: Point) -> list:
    from slipstream.ops.triton import attention

    sizes = bench.pick(FORMS_CODED if point.coded else FORMS, DRY_FORMS)
    return [attention.Form(rows, *rest, fill=FILL, few_rows=few_rows) for rows, few_rows, *rest in sizes]


def _variant(shape: Heads, point: Point, form):
    from slipstream.ops.triton import attention

    kind = "*fp8e4nv" if point.coded else "*bf16"
    return attention.mixed_variant(shape.heads, shape.kv_heads, shape.head_dim, kind, form, attention_sweep.PAGE)


def one(bench: Bench, limits: Limits, shape: Heads, point: Point) -> None:
    """Both kinds of rows by themselves, one after the other, and together: as the table has it, and by every form of FORMS."""
    from slipstream.ops.triton import attention

    if bench.dry:
        attention.BY_TILE = 1  # of this process: so few rows as the interpreter can do go by tiles, as many do
    rows, parts = facts(bench, point)
    keys = point.batch * point.context + point.past + point.chunk
    size = attention_sweep.size_of(shape, 1, keys, point.coded)
    copies = bench.pick(max(1, min(8, -(-attention_sweep.COLD // size))), 1)
    pages = int(rows.page_table.max()) + 1
    paged = [attention_sweep.caches(bench, shape, 1, pages * attention_sweep.PAGE, point.coded) for _ in range(copies)]
    qkv = torch.randn(point.batch + point.chunk, shape.width, device=bench.device).bfloat16().float()
    halves = list(zip(qkv.split([point.batch, point.chunk]), parts, strict=True))
    points = (attention_forms.Point(point.batch, 1, point.context), attention_forms.Point(1, point.chunk, point.past + point.chunk))
    wanted = torch.cat([attention_forms.expected(q, paged[0], own, shape, of) for (q, own), of in zip(halves, points, strict=True)])
    forms, plain = attention.BY_ROWS.now, replace(rows, few=None)

    def apart(kv) -> Tensor:
        return torch.cat([call(q, kv, own, shape, forms) for q, own in halves])

    calls: dict[str, list[Callable]] = {APART: [partial(apart, kv) for kv in paged]}
    calls[TABLE] = [partial(call, qkv, kv, plain, shape, forms) for kv in paged]
    for form in _forms(bench, point):
        calls[named(form)] = [partial(call, qkv, kv, rows, shape, ((1 << 31, form, form),)) for kv in paged]
    facts_of = {name: attention_forms.check(own[0], wanted) for name, own in calls.items()}
    for name, (q, own) in zip(("decode rows alone", "chunk alone"), halves, strict=True):
        calls[name] = [partial(call, q, kv, own, shape, forms) for kv in paged]
    found = bench.clock.compare(calls, seconds=SECONDS_EACH)
    pairs = point.batch * point.context + point.chunk * point.past + point.chunk * (point.chunk + 1) // 2
    moved = size + len(qkv) * shape.heads * shape.head_dim * 8
    least = limits.seconds(moved, 4.0 * pairs * shape.heads * shape.head_dim)
    for name, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{point} {name}", timing)
            continue
        bench.row(
            model=shape.model, batch=point.batch, context=point.context, chunk=point.chunk, past=point.past, coded=point.coded, form=name,
            us=timing.median * 1e6, spread=timing.spread, roof=least / timing.median, **facts_of.get(name, {}), timed=timing.way,
            raw=timing.samples,
        )  # fmt: skip


def named(form) -> str:
    return f"{form.query_rows}+{form.few_rows}/{form.block_keys}/{form.warps}/{form.stages}"


def facts(bench: Bench, point: Point) -> tuple[AttentionRows, list[AttentionRows]]:
    """The rows of a point, those that stand alone first, and both kinds by themselves; all with one page table."""
    decode = attention_sweep.facts(bench, point.batch, 1, point.context)
    chunk = attention_sweep.facts(bench, 1, point.chunk, point.past + point.chunk)
    tables = [decode.page_table, chunk.page_table + decode.page_table.numel()]
    width = max(table.shape[1] for table in tables)
    table = torch.cat([F.pad(own, (0, width - own.shape[1])) for own in tables]).contiguous()
    parts = [replace(decode, page_table=table[: point.batch].clone()), replace(chunk, page_table=table[point.batch :].clone())]
    request = torch.cat([decode.request, chunk.request + point.batch])
    positions = torch.cat([decode.positions, chunk.positions])
    start = torch.zeros(len(request) + 1, dtype=torch.int32, device=bench.device)
    marks = (request < point.batch).int()
    members = torch.full((4 * point.batch,), -1, dtype=torch.int32, device=bench.device)
    members[: point.batch] = torch.arange(point.batch)
    return AttentionRows(request, positions, positions + 1, start, decode.tail_slots, table, few=Few(members, marks)), parts


def answer(rows: list[dict]) -> list[str]:
    """Per point all ways by their time, and the forms that are wrong."""
    out = []
    fields = ("batch", "context", "chunk", "past", "coded")
    for point in dict.fromkeys(tuple(row[field] for field in fields) for row in rows):
        here = sorted((row for row in rows if tuple(row[field] for field in fields) == point), key=lambda row: row["us"])
        ways = ", ".join(f"{row['form']} {row['us']:.1f} us ({row['roof']:.0%})" for row in here)
        out.append(f"{Point(*point)}: {ways}")
        wrong = [f"{row['form']} ({row['error']:.1e})" for row in here if not row.get("right", True)]
        if wrong:
            out.append(f"  WRONG: {', '.join(wrong)}")
    return out


def samples(rows: list[dict]) -> list[Sample]:
    """For MIXED of ops/triton/attention.py: one form for all such steps, so what counts is all points."""
    from slipstream.ops.triton import attention

    ways = {TABLE: None}
    for size in (*FORMS, *FORMS_CODED, *DRY_FORMS):
        form = attention.Form(size[0], *size[2:], fill=FILL, few_rows=size[1])
        ways[named(form)] = form
    caches = {True: "*fp8e4nv", False: "*bf16"}
    return [
        Sample("mixed", 1, ways[row["form"]], row["us"], row["point"], column=caches[row["coded"]], right=row["right"])
        for row in rows
        if row["form"] in ways
    ]
