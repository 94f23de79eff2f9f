"""Prefill attention: causal, all tokens new. Decides whether prefill needs a kernel of its own."""

from slipstream.bench.gpu import attention_sweep
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.shapes import heads

QUESTION = "Where does the same kernel stand in prefill, against the peak and against torch's SDPA?"
ORDER, SECONDS = 120, 25
POINTS, DRY_POINTS = [(1, 2048), (1, 512), (1, 8192), (4, 1024), (1, 16384)], [(1, 18)]  # batch, tokens


def measure(bench: Bench) -> None:
    limits = bench.limits()
    points = [(shape, *point) for shape in heads(bench.dry) for point in bench.pick(POINTS, DRY_POINTS)]

    def one(point: tuple) -> None:
        shape, batch, tokens = point
        published = bench.published.prefill_attention(batch, tokens, shape.heads, shape.kv_heads, shape.head_dim)
        attention_sweep.point(bench, limits, shape, batch, tokens, tokens, published)

    bench.each(points, lambda point: f"{point[0].model} batch {point[1]} tokens {point[2]}", one)


answer = attention_sweep.answer
