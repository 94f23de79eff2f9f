"""Sizes of the attention kernel side by side: decode, speculative rows, prefill. Decides the tables of ops/triton/attention.py."""

import re
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor

from slipstream.bench.gpu import attention_sweep
from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.deciding import Sample
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Heads, heads
from slipstream.ops.types import AttentionRows

QUESTION = "Which size of the attention kernel is fastest where, is each right, and which give a row the same bits?"
ORDER, SECONDS = 75, 120
FEW = (  # query rows, keys per block, warps, stages, keys per segment
    *((16, 128, 4, 2, 128), (16, 128, 4, 2, 512), (16, 128, 8, 2, 128), (16, 128, 8, 2, 512), (16, 128, 8, 3, 128), (16, 128, 2, 2, 512)),
    *((16, 64, 4, 2, 512), (16, 64, 4, 3, 128), (16, 64, 4, 3, 512), (16, 64, 1, 3, 512), (16, 32, 2, 2, 512), (16, 32, 2, 3, 128)),
    *((16, 32, 2, 3, 512), (16, 32, 2, 4, 512), (32, 64, 4, 2, 512), (32, 64, 4, 3, 512), (32, 128, 4, 2, 512), (64, 64, 4, 3, 512)),
)
FEW_CODED = (  # for caches in fp8
    *((16, 64, 2, 3, 512), (16, 64, 2, 3, 128), (16, 64, 2, 4, 512), (16, 64, 2, 2, 512), (16, 64, 4, 2, 512), (16, 64, 4, 3, 512)),
    *((16, 32, 2, 3, 512), (16, 32, 2, 4, 512), (16, 32, 1, 4, 512), (16, 128, 4, 2, 512), (16, 128, 4, 3, 512), (16, 128, 4, 2, 128)),
    *((16, 128, 8, 2, 512), (64, 64, 8, 3, 512)),
)
MANY_CODED = ((64, 64, 8, 2, 512), (64, 64, 8, 3, 512), (128, 64, 8, 2, 512), (64, 32, 4, 3, 512))
MANY = ((64, 64, 4, 2, 512), (64, 64, 4, 3, 512), (128, 64, 8, 2, 512), (128, 64, 8, 3, 512))
SHORT = (  # few rows of thousands of keys: segments by the length of a row, of which there are `most`, and warps that merge them
    *((16, 32, 2, 3, 512, 64, 1), (16, 32, 2, 3, 128, 64, 1), (16, 32, 2, 3, 128, 16, 1), (16, 32, 2, 3, 128, 16, 4)),
    *((16, 64, 4, 2, 128, 16, 4), (16, 64, 4, 3, 128, 16, 1), (16, 64, 4, 3, 128, 16, 4), (16, 64, 4, 3, 128, 64, 4)),
    *((16, 64, 4, 3, 128, 32, 2), (16, 128, 4, 2, 128, 16, 4), (16, 128, 4, 2, 128, 32, 2), (16, 32, 4, 4, 128, 16, 4)),
)
FILLS = (264, 528, 1056, 1 << 30)  # programs that are wanted; the last gives every segment one of its own
DRY_FEW, DRY_MANY = ((16, 32, 4, 3, 512), (64, 64, 4, 3, 512)), ((64, 64, 4, 3, 512),)
SECONDS_EACH = 0.006


@dataclass(frozen=True)
class Point:
    """`new` rows of each of `batch` requests, the last of which sees `context` keys; tails: all but the first are rows of a draft;
    coded: the cache is in fp8; short: the forms of SHORT; large: of the larger model."""

    batch: int
    new: int
    context: int
    tails: bool = False
    coded: bool = False
    short: bool = False
    large: bool = False

    def __str__(self) -> str:
        more = "".join(f" {word}" for word in ("tails", "coded", "short", "large") if getattr(self, word))
        return f"batch {self.batch}, {self.new} of {self.context}{more}"


SHORT_POINTS = [Point(8, 1, 1024), Point(1, 1, 8192), Point(1, 1, 8192, large=True), Point(8, 1, 1024, large=True)]
SHORT_POINTS += [Point(8, 1, 8192), Point(1, 1, 1024), Point(1, 1, 32768)]  # whether what serves these rows loses elsewhere
CODED_POINTS = [Point(64, 1, 4096), Point(8, 1, 8192), Point(1, 1, 1024), Point(1, 1, 32768), Point(8, 5, 2048, True), Point(1, 2048, 2048)]
POINTS = [replace(point, short=True) for point in SHORT_POINTS] + [replace(point, coded=True) for point in CODED_POINTS]  # never timed
POINTS += [Point(1, 1, 1024), Point(8, 1, 8192), Point(64, 1, 1024), Point(128, 1, 4096), Point(1, 1, 32768), Point(1, 1, 256)]
POINTS += [Point(8, 5, 2048, True), Point(1, 8, 8192, True), Point(1, 2048, 2048), Point(1, 8192, 8192)]
DRY_POINTS = [Point(1, 2, 20, True), Point(1, 18, 18), Point(2, 1, 20, coded=True)]


def measure(bench: Bench) -> None:
    shapes = heads(bench.dry)
    forms = {point: _forms(bench, point) for point in bench.pick(POINTS, DRY_POINTS)}
    if not bench.dry:
        asked = ((shapes[-point.large], point, form) for point, some in forms.items() for form in some)
        compile_ahead(bench, (variant for what in asked for variant in _variants(*what)))
    limits = bench.limits()
    bench.each(list(forms), str, lambda point: one(bench, limits, shapes[-point.large], point, forms[point]))


def _forms(bench: Bench, point: Point) -> list:
    from slipstream.ops.triton import attention

    few, many = (FEW_CODED, MANY_CODED) if point.coded else (SHORT if point.short else FEW, MANY)
    sizes = bench.pick(few, DRY_FEW) if point.new < bench.pick(64, 3) else bench.pick(many, DRY_MANY)
    return [
        attention.Form(*size, segment=segment, **dict(zip(("most", "merging"), more, strict=False)))
        for *size, segment, more in ((*entry[:5], entry[5:]) for entry in sizes)
    ]


def _variants(shape: Heads, point: Point, form):
    """What `one` may launch of a form; one that cannot be compiled fails where it is used."""
    from slipstream.ops.triton import attention

    of = (shape.heads, shape.kv_heads, shape.head_dim, "*fp8e4nv" if point.coded else "*bf16", form, attention_sweep.PAGE)
    ways = [way for name, way in attention.WAYS.items() if form.query_rows >= 64 or name != "by tile"]
    return [*(attention.variant(*of, **way) for way in ways), attention.merge_variant(shape.heads, shape.head_dim, form)]


def one(bench: Bench, limits: Limits, shape: Heads, point: Point, forms: list) -> None:
    """Every form, with as many programs as FILLS says; which of them are right, and what bits they give."""
    from slipstream.ops.triton import attention

    size = attention_sweep.size_of(shape, point.batch, point.context, point.coded)
    copies = bench.pick(max(1, min(8, -(-attention_sweep.COLD // size))), 1)
    paged = [attention_sweep.caches(bench, shape, point.batch, point.context, point.coded) for _ in range(copies)]
    rows = facts(bench, point)
    qkv = torch.randn(point.batch * point.new, shape.width, device=bench.device).bfloat16().float()
    wanted = expected(qkv, paged[0], rows, shape, point)
    calls: dict[str, list[Callable]] = {}
    facts_of: dict[str, dict] = {}
    for form in forms:
        for fill in FILLS:
            form = replace(form, fill=fill)
            splits = attention.splits(form, len(qkv), shape.kv_heads, attention.segments_of(form, point.context))
            name = f"{form.query_rows}/{form.block_keys}/{form.warps}/{form.stages} {form.segment}x{splits}"
            name += f" most {form.most}/{form.merging}" if point.short else ""
            if name not in calls and (splits == 1 or point.new < 64):
                calls[name] = [partial(_call, attention.attention, qkv, kv, rows, shape, form) for kv in paged]
                facts_of[name] = check(calls[name][0], wanted) | {"fields": asdict(form)}
    found = bench.clock.compare(calls, seconds=SECONDS_EACH)
    first = point.context - point.new
    pairs = point.batch * (point.new * first + point.new * (point.new + 1) // 2)
    operations = 4.0 * pairs * shape.heads * shape.head_dim
    moved = size + len(qkv) * shape.heads * shape.head_dim * 8
    least = limits.seconds(moved, operations)
    of = (point.batch, point.context, shape.heads, shape.kv_heads, shape.head_dim, point.coded)
    published = bench.published.decode_attention(*of) if point.new == 1 else None
    for name, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{point} {name}", timing)
            continue
        bench.row(
            model=shape.model, batch=point.batch, new=point.new, context=point.context, tails=point.tails, coded=point.coded,
            short=point.short, large=point.large, form=name, us=timing.median * 1e6, spread=timing.spread, roof=least / timing.median,
            binds=limits.binds(moved, operations), published_us=published and published * 1e6, **facts_of[name],
            timed=timing.way, raw=timing.samples,
        )  # fmt: skip


def _call(op: Callable, qkv: Tensor, kv, rows: AttentionRows, shape: Heads, form) -> Tensor:
    out = torch.empty(len(qkv), shape.heads * shape.head_dim, device=qkv.device)
    op(qkv, kv, rows, shape.heads, shape.head_dim**-0.5, 0, out, forms=((1 << 31, form, form),))
    return out


def check(call: Callable, wanted: Tensor) -> dict:
    """How far the result is from the right one, and what bits it has; what cannot run says so when it is timed."""
    try:
        out = call()
    except Exception:  # the same exception comes again from the clock, which keeps it
        return {"error": float("inf"), "right": False, "bits": "none"}
    error = float((out - wanted).norm() / wanted.norm())
    return {"error": error, "right": error < 8e-3, "bits": f"{zlib.crc32(out.cpu().numpy().tobytes()):08x}"}


def facts(bench: Bench, point: Point) -> AttentionRows:
    """The rows of a point; those of a draft find their last keys, which lie where they would lie without a draft, as tail slots."""
    rows = attention_sweep.facts(bench, point.batch, point.new, point.context)
    if point.tails:
        tails = torch.arange(point.new).repeat(point.batch)  # a chain: row j of a request has j ancestors, itself included
        position, table = rows.positions.cpu().long(), rows.page_table.cpu().long()
        slots = []
        for row, count in enumerate(tails.tolist()):
            key = torch.arange(int(position[row]) + 1 - count, int(position[row]) + 1)
            slots.append(table[row // point.new][key // attention_sweep.PAGE] * attention_sweep.PAGE + key % attention_sweep.PAGE)
        start = torch.cat([torch.zeros(1, dtype=torch.int64), tails.cumsum(0)])
        rows.linear, rows.tail_start = (x.int().to(bench.device) for x in (position + 1 - tails, start))
        rows.tail_slots = torch.cat(slots).int().to(bench.device)
    return rows


def expected(qkv: Tensor, kv, rows: AttentionRows, shape: Heads, point: Point) -> Tensor:
    """The same by torch, one request at a time. [rows, heads * head_dim]"""
    out = []
    for request, q in enumerate(qkv[:, : shape.heads * shape.head_dim].view(point.batch, point.new, shape.heads, shape.head_dim)):
        k, v = (
            attention_sweep.meant(x)[rows.page_table[request].long()]
            .transpose(0, 1)
            .reshape(1, shape.kv_heads, -1, shape.head_dim)[:, :, : point.context]
            for x in (kv.keys, kv.values)
        )
        q = q.bfloat16().transpose(0, 1)[None]
        if point.new in (1, point.context):
            mixed = attention_sweep.sdpa(q, k, v, point.new, point.context)
        else:
            seen = torch.ones(point.new, point.context, dtype=torch.bool, device=q.device).tril(point.context - point.new)
            k, v = (x.repeat_interleave(shape.heads // shape.kv_heads, 1) for x in (k, v))
            mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out.append(mixed[0].transpose(0, 1).reshape(point.new, -1).float())
    return torch.cat(out)


def answer(rows: list[dict]) -> list[str]:
    """Per point the five fastest forms, those that are wrong, and which forms give the same bits."""
    out = []
    fields = ("batch", "new", "context", "tails", "coded", "short", "large")
    for point in dict.fromkeys(tuple(row[field] for field in fields) for row in rows):
        here = sorted((row for row in rows if tuple(row[field] for field in fields) == point), key=lambda row: row["us"])
        best = ", ".join(f"{row['form']} {row['us']:.1f} us ({row['roof']:.0%})" for row in here[:5])
        others = here[0]["published_us"]
        out.append(f"{Point(*point)}: {best}" + (f", published {others:.1f} us" if others else ""))
        wrong = [f"{row['form']} ({row['error']:.1e})" for row in here if not row["right"]]
        if wrong:
            out.append(f"  WRONG: {', '.join(wrong)}")
        classes: dict[str, list[str]] = {}
        for row in here:
            classes.setdefault(row["bits"], []).append(row["form"])
        out.append(f"  bits: {' | '.join(' = '.join(names) for names in classes.values())}")
    return out


def samples(rows: list[dict]) -> list[Sample]:
    """For BY_ROWS and CODED of ops/triton/attention.py: contexts count alike. One time is that of every `fill` that gives a row as many
    programs."""
    from slipstream.ops.triton import attention

    out, of = [], {shape.model: shape for shape in (*heads(False), *heads(True))}
    for row in rows:
        asked, count = re.match(r"(\d+)/(\d+)/(\d+)/(\d+) (\d+)x(\d+)(?: most (\d+)/(\d+))?", row["form"]), row["batch"] * row["new"]
        *size, segment, programs, most, merging = (int(number) for number in asked.groups("0"))
        more = {"most": most, "merging": merging} if most else {}
        form = attention.Form(**row["fields"]) if "fields" in row else attention.Form(*size, segment=segment, **more)
        table, column = attention.CODED if row.get("coded") else attention.BY_ROWS, int(row["tails"])
        for fill in dict.fromkeys((*FILLS, *(entry[1 + column].fill for entry in table.now))):
            one = replace(form, fill=fill)
            found = attention.splits(one, count, of[row["model"]].kv_heads, attention.segments_of(one, row["context"]))
            if found == programs:
                among = "short" if row.get("short") else ""
                out.append(Sample(table.name, count, one, row["us"], row["point"], column=column, among=among, right=row["right"]))
    return out
