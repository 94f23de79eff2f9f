"""The least time that a step can take on a machine (the roofline of Williams et al. 2009). Owns the rule; measures nothing.

    memory   bytes / bandwidth
    compute  sum over kinds of arithmetic of operations / peak of that kind (they share the same cores)
    limit    the longer of the two: memory and processor can work at the same time, at best perfectly
"""

from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.base.errors import InputError
from slipstream.cost.step import Cost

GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Limit:
    """Times in seconds."""

    memory: float
    compute: float

    @property
    def seconds(self) -> float:
        """No step of this cost can be faster here."""
        return max(self.memory, self.compute)

    @property
    def binds(self) -> str:
        """Which side sets it: "memory" or "compute"."""
        return "memory" if self.memory >= self.compute else "compute"

    def share(self, seconds: float) -> float:
        """Which fraction of the possible speed a measured time reaches; 1 is perfect."""
        return self.seconds / seconds


def limit(cost: Cost, bandwidth: float, peaks: Mapping[str, float]) -> Limit:
    """The limit of a step.

    Args:
        cost: of the step.
        bandwidth: GB/s (1e9 bytes), probed at the size of the working set.
        peaks: Gop/s by kind of arithmetic, a multiply-add counted as two.

    Raises:
        InputError: a bandwidth or needed peak is missing or not above 0.
    """
    if not bandwidth > 0:
        raise InputError(f"bandwidth={bandwidth!r}: must be above 0 GB/s; probe it first")
    compute = 0.0
    for kind, operations in cost.operations.items():
        if operations == 0:
            continue
        peak = peaks.get(kind)
        if peak is None or not peak > 0:
            raise InputError(f"peaks[{kind!r}]={peak!r}: must be above 0 Gop/s; probe it first")
        compute += operations / (peak * GIGA)
    return Limit(memory=cost.bytes / (bandwidth * GIGA), compute=compute)
