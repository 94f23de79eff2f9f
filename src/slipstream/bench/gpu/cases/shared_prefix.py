"""Decode attention of requests that share a prefix, read by each or once for all. Decides the table TOGETHER of ops/triton/attention.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from slipstream.bench.gpu import attention_sweep
from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.cases import attention_forms
from slipstream.bench.gpu.deciding import Sample
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Heads, heads
from slipstream.ops.types import AttentionRows
from slipstream.worker.company import Companies

QUESTION = "From how many rows and shared keys on is reading these once faster, in which form, and are the bits the same?"
ORDER, SECONDS = 78, 70
FORMS = (  # query rows of a request's tile, of a group's tile, keys per block, warps, stages, programs wanted
    *((16, 64, 64, 4, 2, 528), (16, 64, 64, 4, 2, 1056), (16, 64, 64, 4, 3, 528), (16, 16, 64, 4, 2, 528), (16, 16, 32, 2, 3, 528)),
    *((64, 64, 64, 4, 3, 264), (64, 64, 64, 4, 3, 528)),
)
FORMS_CODED = ((16, 64, 64, 8, 2, 528), (16, 16, 64, 2, 3, 528), (64, 64, 64, 8, 3, 264), (64, 64, 64, 8, 3, 528))
DRY_FORMS = ((16, 32, 256, 4, 2, 1),)  # few programs and large blocks: quick in the interpreter
SECONDS_EACH = 0.01
TABLE = "apart, by the table"


@dataclass(frozen=True)
class Point:
    """`batch` rows, each of a request with `shared` keys that all have and `own` ones; coded: the cache is in fp8."""

    batch: int
    shared: int
    own: int
    coded: bool = False

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.shared} shared and {self.own} own{' fp8' if self.coded else ''}"


POINTS = [Point(64, 4096, 512), Point(8, 4096, 512), Point(16, 1024, 256), Point(64, 1024, 256), Point(256, 2048, 256), Point(4, 512, 512)]
POINTS += [Point(32, 32768, 512), Point(64, 512, 1024), Point(64, 4096, 512, True), Point(16, 1024, 256, True)]
DRY_POINTS = [Point(4, 512, 16)]


def measure(bench: Bench) -> None:
    shape = heads(bench.dry)[0]
    if not bench.dry:
        compile_ahead(bench, (variant for point in POINTS for form in _forms(bench, point) for variant in _variants(shape, point, form)))
    limits = bench.limits()
    bench.each(bench.pick(POINTS, DRY_POINTS), str, lambda point: one(bench, limits, shape, point))


def _forms(bench: Bench, point: Point) -> list:
    from slipstream.ops.triton import attention

    sizes = bench.pick(FORMS_CODED if point.coded else FORMS, DRY_FORMS)
    return [attention.Form(rows, *rest, group_rows=group_rows) for rows, group_rows, *rest in sizes]


def _variants(shape: Heads, point: Point, form):
    from slipstream.ops.triton import attention

    of = (shape.heads, shape.kv_heads, shape.head_dim, "*fp8e4nv" if point.coded else "*bf16", form, attention_sweep.PAGE)
    return attention.together_variant(*of), attention.variant(*of), attention.variant(*of, in_parts=True)


def one(bench: Bench, limits: Limits, shape: Heads, point: Point) -> None:
    """The table's form and every form of FORMS, as if nothing were shared and together."""
    from slipstream.ops.triton import attention

    total = point.shared + point.batch * -(-point.own // attention_sweep.PAGE) * attention_sweep.PAGE
    size = attention_sweep.size_of(shape, 1, total, point.coded)
    copies = bench.pick(max(1, min(8, -(-attention_sweep.COLD // size))), 1)
    paged = [attention_sweep.caches(bench, shape, 1, total, point.coded) for _ in range(copies)]
    rows = facts(bench, point)
    apart = replace(rows, company=None)
    qkv = torch.randn(point.batch, shape.width, device=bench.device).bfloat16().float()
    context = point.shared + point.own
    wanted = attention_forms.expected(qkv, paged[0], rows, shape, attention_forms.Point(point.batch, 1, context))
    calls: dict[str, list[Callable]] = {}
    if not bench.dry:
        calls[TABLE] = [partial(call, qkv, kv, apart, shape, attention.BY_ROWS.now) for kv in paged]
    for form in _forms(bench, point):
        name = named(form)
        for way, which in (("together", rows), ("apart", apart)):
            calls[f"{way} {name}"] = [partial(call, qkv, kv, which, shape, ((1 << 31, form, form),)) for kv in paged]
    facts_of = {name: attention_forms.check(own[0], wanted) for name, own in calls.items()}
    found = bench.clock.compare(calls, seconds=SECONDS_EACH)
    moved = size + len(qkv) * shape.heads * shape.head_dim * 8
    least = limits.seconds(moved, 4.0 * point.batch * context * shape.heads * shape.head_dim)
    for name, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{point} {name}", timing)
            continue
        bench.row(
            model=shape.model, batch=point.batch, shared=point.shared, own=point.own, coded=point.coded, form=name,
            us=timing.median * 1e6, spread=timing.spread, roof=least / timing.median, **facts_of[name], timed=timing.way,
            raw=timing.samples,
        )  # fmt: skip


def named(form) -> str:
    return f"{form.query_rows}+{form.group_rows}/{form.block_keys}/{form.warps}/{form.stages} {form.fill}"


def call(qkv: Tensor, kv, rows: AttentionRows, shape: Heads, forms: tuple) -> Tensor:
    from slipstream.ops.triton import attention

    out = torch.empty(len(qkv), shape.heads * shape.head_dim, device=qkv.device)
    attention.attention(qkv, kv, rows, shape.heads, shape.head_dim**-0.5, 0, out, forms=forms)
    return out


def facts(bench: Bench, point: Point) -> AttentionRows:
    """A row of each request; the pages of what they share come first in all tables, and the worker's search finds them."""
    page = attention_sweep.PAGE
    shared, own = point.shared // page, -(-point.own // page)
    pages = np.random.default_rng(0).permutation(shared + point.batch * own).astype(np.int32)
    table = np.concatenate([np.tile(pages[:shared], (point.batch, 1)), pages[shared:].reshape(point.batch, own)], 1)
    rows = attention_sweep.facts(bench, point.batch, 1, point.shared + point.own)
    rows.page_table.copy_(torch.from_numpy(table))
    starts = [point.shared + point.own - 1] * point.batch
    rows.company = Companies(point.batch, page, bench.device).find(table, range(point.batch), starts, [1] * point.batch, point.batch)
    return rows


def answer(rows: list[dict]) -> list[str]:
    """Per point the best of both ways, the forms that are wrong, and those that give other bits together than apart."""
    out = []
    fields = ("batch", "shared", "own", "coded")
    for point in dict.fromkeys(tuple(row[field] for field in fields) for row in rows):
        here = sorted((row for row in rows if tuple(row[field] for field in fields) == point), key=lambda row: row["us"])
        best = ", ".join(f"{row['form']} {row['us']:.1f} us ({row['roof']:.0%})" for row in here[:4])
        table = [f"; {TABLE} {row['us']:.1f} us" for row in here[4:] if row["form"] == TABLE]
        out.append(f"{Point(*point)}: {best}{''.join(table)}")
        wrong = [f"{row['form']} ({row['error']:.1e})" for row in here if not row["right"]]
        if wrong:
            out.append(f"  WRONG: {', '.join(wrong)}")
        bits = {row["form"]: row["bits"] for row in here}
        other = [name for name in bits if name.startswith("together") and bits[name] != bits.get(name.replace("together", "apart"))]
        out.append(f"  other bits than apart: {', '.join(other) or 'none'}")
    return out


def samples(rows: list[dict]) -> list[Sample]:
    """For TOGETHER of ops/triton/attention.py: one form for all steps whose rows share keys, so what counts is all points."""
    from slipstream.ops.triton import attention

    ways = {TABLE: None}
    for size in (*FORMS, *FORMS_CODED, *DRY_FORMS):
        form = attention.Form(size[0], *size[2:], group_rows=size[1])
        ways[f"together {named(form)}"] = form
    caches = {True: "*fp8e4nv", False: "*bf16"}
    return [
        Sample("together", 1, ways[row["form"]], row["us"], row["point"], column=caches[row["coded"]], right=row["right"])
        for row in rows
        if row["form"] in ways
    ]
