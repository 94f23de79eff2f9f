"""Peaks: the fastest matrix products of each type on random data: the roof over everything that computes."""

import torch

from slipstream.bench.gpu.bench import Bench

QUESTION = "How fast are the tensor cores, by type?"
ORDER, SECONDS = 50, 25
SIZES = [(8192, 8192, 8192), (4096, 4096, 4096), (8192, 8192, 1024), (16384, 8192, 8192), (2048, 28672, 4096)]  # m, n, k
DRY_SIZES = [(64, 64, 64)]


def measure(bench: Bench) -> None:
    def one(size: tuple[int, int, int]) -> None:
        m, n, k = size
        x, weight = torch.randn(m, k, device=bench.device), torch.randn(n, k, device=bench.device)
        kinds = products(x, weight)
        if m == n == k:
            nil, none = torch.zeros(m, k, device=bench.device).bfloat16(), torch.zeros(n, k, device=bench.device).bfloat16()
            kinds["bf16 on zeros (no peak: less power)"] = lambda: torch.mm(nil, none.t())
        found = bench.clock.compare({name: [call] for name, call in kinds.items()}, seconds=0.15)
        for kind, timing in found.items():
            if isinstance(timing, Exception):
                bench.unavailable(kind, f"{type(timing).__name__}: {str(timing)[:160]}")
                continue
            bench.row(
                kind=kind, m=m, n=n, k=k, tflops=2 * m * n * k / timing.median / 1e12, us=timing.median * 1e6, spread=timing.spread,
                timed=timing.way, raw=timing.samples,
            )  # fmt: skip

    bench.each(bench.pick(SIZES, DRY_SIZES), str, one)


def products(x: torch.Tensor, weight: torch.Tensor) -> dict:
    """The same product [m, k] x [n, k] in every type; inputs are made here, once."""
    a, b = x.bfloat16(), weight.bfloat16()
    narrow, other = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
    one = torch.ones((), device=x.device)
    rows, columns = torch.ones(len(x), 1, device=x.device), torch.ones(1, len(weight), device=x.device)
    p, q = ((t * 40).clamp(-127, 127).to(torch.int8) for t in (x, weight))
    kinds = {
        "bf16": lambda: torch.mm(a, b.t()),
        "fp8 per tensor": lambda: torch._scaled_mm(narrow, other.t(), one, one, out_dtype=torch.bfloat16),
        "fp8 per tensor, fast sums": lambda: torch._scaled_mm(narrow, other.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True),
        "fp8 per row": lambda: torch._scaled_mm(narrow, other.t(), rows, columns, out_dtype=torch.bfloat16),
        "int8": lambda: torch._int_mm(p, q.t()),
    }
    if x.is_cuda:
        kinds["bf16, fp32 out"] = lambda: torch.mm(a, b.t(), out_dtype=torch.float32)
    return kinds


def answer(rows: list[dict]) -> list[str]:
    best = {}
    for row in rows:
        if row["kind"] not in best or row["tflops"] > best[row["kind"]]["tflops"]:
            best[row["kind"]] = row
    return [f"{kind}: {row['tflops']:,.0f} TFLOP/s at {row['m']}x{row['n']}x{row['k']}" for kind, row in best.items()]
