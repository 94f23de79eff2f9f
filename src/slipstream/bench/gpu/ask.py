"""What the runner asks of the process of one case, and how that process says that its device is lost. Data only."""

from dataclasses import dataclass

CASES = "slipstream.bench.gpu.cases"
DEVICE_LOST = 75  # exit status of a case whose CUDA context can no longer be used: the runner starts it again after that point


@dataclass(frozen=True)
class Ask:
    """What one process is asked to do.

    Attributes:
        case: file in cases/.
        dry: on the CPU, with tiny shapes and the wall clock.
        deadline: time.monotonic() by which the case must have ended.
        skip: labels of points not to be begun.
        published: files or folders with published tables.
        point_seconds: longest time that one point may take before the process gives itself up.
    """

    case: str
    dry: bool
    deadline: float
    skip: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    point_seconds: float = 60.0
