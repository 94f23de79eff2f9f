"""Decode attention over batch and context. Decides whether the paged kernel needs another way to split keys."""

from slipstream.bench.gpu import attention_sweep
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.shapes import heads

QUESTION = "Where does paged decode attention stand against reading the cache once, over batch x context?"
ORDER, SECONDS = 80, 45
POINTS = [(1, 1024), (8, 1024), (64, 1024), (1, 8192), (8, 8192), (32, 4096), (128, 4096), (1, 256), (128, 1024), (1, 32768), (8, 32768)]
POINTS += [(64, 256), (16, 2048), (256, 512)]  # batch, context
DRY_POINTS = [(2, 20)]
CODED = [(64, 4096), (8, 32768), (1, 32768), (64, 1024), (8, 8192), (1, 1024), (128, 4096)]  # of these also with a cache in fp8


def measure(bench: Bench) -> None:
    limits = bench.limits()
    shapes = heads(bench.dry)
    points = [(shape, *point, False) for shape in shapes for point in bench.pick(POINTS, DRY_POINTS)]
    points += [(shape, *point, True) for shape in shapes for point in bench.pick(CODED, DRY_POINTS)]

    def one(point: tuple) -> None:
        shape, batch, context, coded = point
        published = bench.published.decode_attention(batch, context, shape.heads, shape.kv_heads, shape.head_dim, coded)
        attention_sweep.point(bench, limits, shape, batch, 1, context, published, coded)

    bench.each(points, lambda point: f"{point[0].model} batch {point[1]} context {point[2]}{' fp8' if point[3] else ''}", one)


answer = attention_sweep.answer
