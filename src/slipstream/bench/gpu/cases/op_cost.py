"""What the small ops cost in a step: norm, rope, gate, gather, sampling, at the widths of a real model."""

import torch

from slipstream.bench.gpu import scenes
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.shapes import Heads
from slipstream.ops.types import KV, SampleRows

QUESTION = "What do the small ops cost beside their bytes, by rows?"
ORDER, SECONDS = 130, 25
ROWS, DRY_ROWS = (1, 8, 64, 512, 4096), (2,)


def measure(bench: Bench) -> None:
    limits, kernels = bench.limits(), scenes.triton_kernels()
    hidden, width, vocab = bench.pick((4096, 14336, 128256), (32, 48, 64))
    heads = bench.pick(Heads("llama-3.1-8b", 32, 8, 128), Heads("tiny", 4, 2, 16))

    def one(point: tuple[str, int]) -> None:
        op, rows = point
        if getattr(kernels, op.partition(" ")[0]) is None:
            bench.unavailable(op, "the Triton candidate has no such op")
            return
        call, moved = CALLS[op](bench, kernels, rows, hidden, width, vocab, heads)
        timing = bench.clock.time([call], seconds=0.02)
        launched = bench.clock.time([call], graph=False, seconds=0.02)
        bench.row(
            op=op, rows=rows, us=timing.median * 1e6, launched_us=launched.median * 1e6, mb=moved / 2**20,
            roof_us=limits.seconds(moved) * 1e6, roof=limits.seconds(moved) / timing.median,
            spread=timing.spread, timed=timing.way, raw=timing.samples,
        )  # fmt: skip

    points = [(op, rows) for rows in bench.pick(ROWS, DRY_ROWS) for op in CALLS if rows <= 512 or op in SMALL]
    bench.each(points, lambda point: f"{point[0]} rows {point[1]}", one)


def _noise(bench: Bench, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=bench.device)


def norm(bench, kernels, rows, hidden, width, vocab, heads):
    x, residual, out, weight = (*(_noise(bench, rows, hidden) for _ in range(3)), _noise(bench, hidden))
    return lambda: kernels.norm(x, weight, 1e-5, out, residual), 16 * rows * hidden


def gated(bench, kernels, rows, hidden, width, vocab, heads):
    gate_up, out = _noise(bench, rows, 2 * width), _noise(bench, rows, width)
    return lambda: kernels.gated(gate_up, out), 12 * rows * width


def embed(bench, kernels, rows, hidden, width, vocab, heads):
    table, out = _noise(bench, vocab, hidden).bfloat16(), _noise(bench, rows, hidden)
    ids = torch.randint(vocab, (rows,), device=bench.device).int()
    return lambda: kernels.embed(ids, table, out), 6 * rows * hidden


def rope_write(bench, kernels, rows, hidden, width, vocab, heads):
    qkv, table = _noise(bench, rows, heads.width), _noise(bench, 4096, 2, heads.head_dim // 2)
    kv = KV(*(_noise(bench, -(-rows // 16), heads.kv_heads, 16, heads.head_dim).bfloat16() for _ in range(2)))
    slots = torch.arange(rows, device=bench.device, dtype=torch.int32)
    turned, stored = (heads.heads + heads.kv_heads) * heads.head_dim, 2 * heads.kv_heads * heads.head_dim
    return lambda: kernels.rope_write(qkv, slots, slots, table, kv, heads.heads), rows * (4 * heads.width + 4 * turned + 2 * stored)


def sample(bench, kernels, rows, hidden, width, vocab, heads):
    return _sampling(bench, kernels, rows, vocab, None)


def sample_greedy(bench, kernels, rows, hidden, width, vocab, heads):
    return _sampling(bench, kernels, rows, vocab, 0.0)


def _sampling(bench, kernels, rows, vocab, temperature):
    settings = scenes.sample(rows, 8).on(bench.device).tensors
    if temperature is not None:
        settings["temperature"] = torch.full_like(settings["temperature"], temperature)
    logits, out = _noise(bench, rows, vocab) * 3, torch.zeros(rows, device=bench.device, dtype=torch.int32)
    facts = SampleRows(*(settings[name] for name in SampleRows.__slots__))
    return lambda: kernels.sample(logits, facts, out), 4 * rows * vocab


def logprobs(bench, kernels, rows, hidden, width, vocab, heads):
    logits, tokens = _noise(bench, rows, vocab), torch.randint(vocab, (rows,), device=bench.device).int()
    return lambda: kernels.logprobs(logits, tokens, 5), 4 * rows * vocab


CALLS = {"norm": norm, "gated": gated, "embed": embed, "rope_write": rope_write, "sample": sample, "sample greedy": sample_greedy}
CALLS["logprobs"] = logprobs
SMALL = ("norm", "gated", "embed", "rope_write")  # also at the rows of a long prefill


def answer(rows: list[dict]) -> list[str]:
    return [
        f"{row['op']} rows {row['rows']}: {row['us']:.1f} us ({row['launched_us']:.1f} launched), {row['roof']:.0%} of roof" for row in rows
    ]
