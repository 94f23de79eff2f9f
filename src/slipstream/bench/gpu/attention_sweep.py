"""The attention sweep: the engine's paged kernel beside torch's SDPA on contiguous memory. Shared by the decode and the prefill case."""

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.bench.gpu import scenes
from slipstream.bench.gpu.bench import Bench, Unavailable
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Heads
from slipstream.ops.types import KV, SCALE_BYTES, AttentionRows, coded_pages

PAGE = 16
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
COLD = 256 << 20


def point(
    bench: Bench, limits: Limits, heads: Heads, batch: int, new: int, context: int, published: float | None, coded: bool = False
) -> None:
    """`new` rows of each of `batch` sequences, the last of which sees `context` keys; causal. coded: over a cache in fp8, which torch
    has no kernel for."""
    kernels = scenes.triton_kernels()
    if kernels.attention is None:
        raise Unavailable("the Triton candidate has no attention")
    size = size_of(heads, batch, context, coded)
    copies = bench.pick(max(1, min(8, -(-COLD // size))), 1)
    paged = [caches(bench, heads, batch, context, coded) for _ in range(copies)]
    rows = facts(bench, batch, new, context)
    qkv = torch.randn(batch * new, heads.width, device=bench.device)
    out = torch.empty(batch * new, heads.heads * heads.head_dim, device=bench.device)
    scale = heads.head_dim**-0.5
    ours = [lambda kv=kv: kernels.attention(qkv, kv, rows, heads.heads, scale, 0, out) for kv in paged]
    candidates = {"ours fp8": ours} if coded else {
        "ours": ours,
        "sdpa": [lambda qkv=part: sdpa(*qkv, new, context) for part in plain(bench, heads, batch, new, context, copies)],
    }  # fmt: skip
    found = bench.clock.compare(candidates, seconds=0.02)
    first = context - new
    pairs = batch * (new * first + new * (new + 1) // 2)
    operations = 4.0 * pairs * heads.heads * heads.head_dim
    moved = size + batch * new * heads.heads * heads.head_dim * 4
    least = limits.seconds(moved, operations)
    for name, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{heads.model} b{batch} {new}/{context} {name}", timing)
            continue
        bench.row(
            model=heads.model, batch=batch, new=new, context=context, kernel=name, us=timing.median * 1e6, spread=timing.spread,
            roof_us=least * 1e6, roof=least / timing.median, binds=limits.binds(moved, operations),
            gb_s=size / timing.median / 1e9, tflops=operations / timing.median / 1e12, published_us=published and published * 1e6,
            timed=timing.way, raw=timing.samples,
        )  # fmt: skip


def size_of(heads: Heads, batch: int, context: int, coded: bool) -> int:
    """Bytes of all keys and values."""
    return 2 * batch * context * heads.kv_heads * (heads.head_dim + SCALE_BYTES if coded else 2 * heads.head_dim)


def meant(cached: Tensor) -> Tensor:
    """The keys or values of a cache, bf16: what is in fp8 here has a scale that changes no bits. [pages, kv_heads, PAGE, head_dim]"""
    if cached.dtype is BF16:
        return cached
    codes, scales = coded_pages(cached)
    return codes.view(FP8).to(BF16) * scales[..., None].to(BF16)


def caches(bench: Bench, heads: Heads, batch: int, context: int, coded: bool = False) -> KV:
    """In bf16 or, coded, in fp8. Keys and values of all sequences in pages of 16; which pages is `facts`' business."""
    shape = (batch * -(-context // PAGE), heads.kv_heads, PAGE, heads.head_dim)
    if not coded:
        return KV(*(torch.randn(shape, device=bench.device, dtype=BF16) for _ in range(2)))
    made = KV(*(torch.empty((*shape[:-1], shape[-1] + SCALE_BYTES), device=bench.device, dtype=FP8) for _ in range(2)))
    for cached in (made.keys, made.values):
        codes, scales = coded_pages(cached)
        codes.copy_((torch.randn(shape, device=bench.device, dtype=BF16) * 100).clamp(-448, 448).to(FP8).view(torch.uint8))
        scales.fill_(1 / 128)
    return made


def facts(bench: Bench, batch: int, new: int, context: int) -> AttentionRows:
    """Rows of all sequences, their pages scattered over the pool."""
    pages = -(-context // PAGE)
    device = bench.device
    generator = torch.Generator().manual_seed(0)
    table = torch.randperm(batch * pages, generator=generator).view(batch, pages).int().to(device)
    positions = torch.arange(context - new, context, device=device, dtype=torch.int32).repeat(batch)
    request = torch.arange(batch, device=device, dtype=torch.int32).repeat_interleave(new)
    none = torch.zeros(0, device=device, dtype=torch.int32)
    return AttentionRows(request, positions, positions + 1, torch.zeros(batch * new + 1, device=device, dtype=torch.int32), none, table)


def plain(bench: Bench, heads: Heads, batch: int, new: int, context: int, copies: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """q [batch, heads, new, head_dim] and contiguous k, v [batch, kv_heads, context, head_dim], bf16."""
    q = torch.randn(batch, heads.heads, new, heads.head_dim, device=bench.device, dtype=BF16)
    shape = (batch, heads.kv_heads, context, heads.head_dim)
    return [(q, *(torch.randn(shape, device=bench.device, dtype=BF16) for _ in range(2))) for _ in range(copies)]


def sdpa(q: Tensor, k: Tensor, v: Tensor, new: int, context: int) -> Tensor:
    """torch's own attention; causal only where all tokens are new, a single new token sees everything."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=new == context and new > 1, enable_gqa=True)


def answer(rows: list[dict]) -> list[str]:
    """One line per shape: both kernels, their share of the roof, the published time."""
    out = []
    shapes = dict.fromkeys((row["model"], row["batch"], row["new"], row["context"]) for row in rows)
    for shape in shapes:
        here = [row for row in rows if (row["model"], row["batch"], row["new"], row["context"]) == shape]
        text = ", ".join(f"{row['kernel']} {row['us']:.1f} us ({row['roof']:.0%} of roof)" for row in here)
        other = here[0]["published_us"]
        out.append(f"{shape[0]} batch {shape[1]}, {shape[2]} new of {shape[3]}: {text}" + (f", published {other:.1f} us" if other else ""))
    return out
