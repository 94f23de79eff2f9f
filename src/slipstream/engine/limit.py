"""Limit: how fast this machine could have done the steps of a run, by what was probed around it.

Owns the probes of one run and their medians. Must not know how fast the run was: nothing here is fitted to a result.
Memory is probed at the size that a decode step reads, because a model that fits the last cache is not limited by DRAM;
arithmetic at the peak of the kind that docs/numerics.md asks for. So the limit is a bound for every program that keeps the
numerics; a share above 1 is shown as it is and says that something else ran while the probes did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from slipstream.arch import ModelSpec
from slipstream.cost import Cost, WeightFormat, Work, roofline, step_cost
from slipstream.engine.meter import StepRecord
from slipstream.ops import probe

ENOUGH = 512 * 2**20  # bytes; what is larger comes from DRAM at the same speed, so probing all of it would only cost memory
BANDWIDTH_PART, PEAK_PART = 0.6, 0.4  # how the time of one reading is divided


@dataclass(frozen=True, slots=True)
class Reading:
    """One probe: GB/s at the size of the working set, Gop/s by kind of arithmetic (a multiply-add is two)."""

    bandwidth: float
    peaks: dict[str, float]


class Limit:
    """The roof over one model on this machine.

    Args:
        spec: the model.
        weight_format, kv: types of its weights and of its cache.
        threads: threads that the engine computes with; the probes take as many.
        context: cached tokens that a typical step reads, all requests together; part of the size that is probed.
        device: where the engine runs; it is the one that is probed.
        activations: as `Options.activations` says it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weight_format: WeightFormat,
        kv: str,
        threads: int,
        context: int = 0,
        device: str = "cpu",
        activations: str = "32",
    ):
        self.spec, self.weight_format, self.kv, self.threads = spec, weight_format, kv, threads
        self.device, self.activations = device, activations
        typical = self._cost(Work.of([(context, 1, ())], 1, spec.windows))
        self.working_set = min(typical.bytes, ENOUGH)
        self.readings: list[Reading] = []
        self._kinds = tuple(typical.operations)

    def probe(self, seconds: float = 0.15) -> Reading:
        """Takes one reading. Call it before, between and after what is measured: shared machines drift within minutes."""
        part = seconds * PEAK_PART / len(self._kinds)
        reading = Reading(
            bandwidth=probe.read_bandwidth(self.working_set, self.threads, seconds * BANDWIDTH_PART, self.device),
            peaks={kind: probe.peak(kind, self.threads, part, self.device) for kind in self._kinds},
        )
        self.readings.append(reading)
        return reading

    @property
    def bandwidth(self) -> float:
        """GB/s, median of the readings; takes the first one if there is none."""
        return median(reading.bandwidth for reading in self.readings or [self.probe()])

    @property
    def peaks(self) -> dict[str, float]:
        """Gop/s by kind, medians of the readings."""
        readings = self.readings or [self.probe()]
        return {kind: median(reading.peaks[kind] for reading in readings) for kind in self._kinds}

    def roof(self, step: StepRecord) -> roofline.Limit:
        """Memory and compute time of a step at the probed speeds."""
        return roofline.limit(self.cost(step), self.bandwidth, self.peaks)

    def seconds(self, step: StepRecord) -> float:
        """The least time in which this machine could do the step."""
        return self.roof(step).seconds

    def share(self, steps: Sequence[StepRecord], seconds: float) -> float:
        """Which part of the possible speed doing `steps` in `seconds` of wall time is."""
        return sum(map(self.seconds, steps)) / seconds if seconds > 0 else 0.0

    def binds(self, steps: Sequence[StepRecord]) -> str:
        """ "memory" or "compute": which of them sets the larger part of the steps' least time."""
        parts = {"memory": 0.0, "compute": 0.0}
        for roof in map(self.roof, steps):
            parts[roof.binds] += roof.seconds
        return max(parts, key=lambda name: parts[name])

    def cost(self, step: StepRecord) -> Cost:
        """What the step cannot avoid."""
        return self._cost(step.work)

    def _cost(self, work: Work) -> Cost:
        device = self.device.partition(":")[0]
        return step_cost(self.spec, self.weight_format, self.kv, work, device=device, activations=self.activations)
