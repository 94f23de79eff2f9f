"""Bandwidth: reading and copying from 1 MB (L2) to 8 GB (device memory): the roof over everything that decodes."""

import torch

from slipstream.bench.gpu import kernels
from slipstream.bench.gpu.bench import Bench

QUESTION = "How fast are memory and L2, by size?"
ORDER, SECONDS = 40, 20
SIZES = [1 << 20, 4 << 20, 16 << 20, 32 << 20, 48 << 20, 64 << 20, 128 << 20, 512 << 20, 2 << 30, 8 << 30]
DRY_SIZES = [1 << 15, 1 << 16]


def measure(bench: Bench) -> None:
    def one(size: int) -> None:
        x = kernels.noise(size, bench.device)
        twin, sums = torch.empty_like(x), torch.empty(x.numel() // kernels.BLOCK, device=bench.device)
        found = bench.clock.compare(
            {
                "read": [lambda: kernels.read(x, sums)],
                "copy (torch)": [lambda: twin.copy_(x)],
                "copy (Triton)": [lambda: kernels.copy(x, twin)],
                "write": [lambda: twin.zero_()],
            },
            seconds=0.05,
        )
        for way, timing in found.items():
            if isinstance(timing, Exception):
                bench.failure(f"{size} {way}", timing)
                continue
            moved = x.nbytes * (2 if way.startswith("copy") else 1)
            bench.row(
                mb=x.nbytes / 2**20, way=way, gb_s=moved / timing.median / 1e9, us=timing.median * 1e6, spread=timing.spread,
                timed=timing.way, raw=timing.samples,
            )  # fmt: skip

    bench.each(bench.pick(SIZES, DRY_SIZES), str, one)


def answer(rows: list[dict]) -> list[str]:
    out = []
    for way in ("read", "copy (torch)", "write"):
        found = {row["mb"]: row["gb_s"] for row in rows if row["way"] == way}
        if found:
            best = max(found.values())
            out.append(f"{way}: {found[max(found)]:,.0f} GB/s at {max(found):,.0f} MB, best {best:,.0f} GB/s (small sizes: L2)")
    return out
