"""GEMM sweep, many rows: what prefill needs. Left out are the head, which sees sampled rows only, the 4-bit designs,
which are made for few rows, and what differs only at few rows."""

from slipstream.bench.gpu import gemm_sweep
from slipstream.bench.gpu.bench import Bench

QUESTION = "Which GEMM design is fastest at 512 to 8192 rows, and how near to the peak?"
ORDER, SECONDS = 110, 45
COUNTS, DRY_COUNTS = (2048, 512, 8192, 1024, 4096), (40,)


def measure(bench: Bench) -> None:
    gemm_sweep.sweep(bench, bench.pick(COUNTS, DRY_COUNTS), without=("tinygemm", "gemlite", "tiled"), head=False)


answer = gemm_sweep.answer
