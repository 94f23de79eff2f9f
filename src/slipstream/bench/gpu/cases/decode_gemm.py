"""GEMM sweep, few rows: what decoding needs. Decides the linear layer of each profile and what weight formats are worth."""

from slipstream.bench.gpu import gemm_sweep
from slipstream.bench.gpu.bench import Bench

QUESTION = "Which GEMM design is fastest at 1 to 256 rows, and where does it stand against its roof?"
ORDER, SECONDS = 70, 85
COUNTS, DRY_COUNTS = (1, 16, 64, 8, 256, 4, 32, 128, 2), (1, 17)  # what matters most first, should time run out within a layer


def measure(bench: Bench) -> None:
    gemm_sweep.sweep(bench, bench.pick(COUNTS, DRY_COUNTS))


answer = gemm_sweep.answer
