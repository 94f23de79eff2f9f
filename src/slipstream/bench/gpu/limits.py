"""What the device can do at best, measured in the process that needs it. Owns the two probes; a figure without its limit says nothing."""

from dataclasses import dataclass

import torch

from slipstream.bench.gpu import kernels
from slipstream.bench.gpu.clock import Clock

SIZE, DRY_SIZE = 2 << 30, 1 << 16  # bytes read; many times the L2 cache
EDGE, DRY_EDGE = 8192, 64  # of the square bf16 product


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes per second from device memory (the better of reading and copying) and bf16 operations per second (multiply-add = 2)."""

    bandwidth: float
    bf16: float

    def seconds(self, size: float, operations: float = 0.0, times: float = 1.0) -> float:
        """Least time for `size` bytes and `operations` at `times` the bf16 rate (2 for fp8 and int8)."""
        return max(size / self.bandwidth, operations / (self.bf16 * times))

    def binds(self, size: float, operations: float, times: float = 1.0) -> str:
        """ "memory" or "compute"."""
        return "memory" if size / self.bandwidth >= operations / (self.bf16 * times) else "compute"

    def __str__(self) -> str:
        return f"{self.bandwidth / 1e12:.2f} TB/s, {self.bf16 / 1e12:.0f} TFLOP/s bf16"


def probe(clock: Clock, dry: bool) -> Limits:
    """Takes some 0.2 s on an H200, the first time longer for compiling; 4 GiB of memory, given back."""
    size, edge = (DRY_SIZE, DRY_EDGE) if dry else (SIZE, EDGE)
    x = kernels.noise(size, clock.device)
    sums, twin = torch.empty(x.numel() // kernels.BLOCK, device=clock.device), torch.empty_like(x)
    a, b = (torch.randn(edge, edge, device=clock.device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    found = clock.compare(
        {"read": [lambda: kernels.read(x, sums)], "copy": [lambda: twin.copy_(x)], "product": [lambda: torch.mm(a, b.t(), out=out)]}
    )
    for timing in found.values():
        if isinstance(timing, Exception):
            raise timing
    bandwidth = max(x.nbytes / found["read"].median, 2 * x.nbytes / found["copy"].median)
    return Limits(bandwidth, 2 * edge**3 / found["product"].median)
