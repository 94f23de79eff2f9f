"""The kernels under test, as the tests of ops/ take them. Only for processes with TRITON_INTERPRET=1, set before triton is imported."""

from slipstream.ops import triton as candidate
from slipstream.ops.types import FAMILY_OPS, OPS, ROUND_OPS, Declined, ExpertsKernel, GateUpKernel, LinearKernel


class Interpreted:
    """What Kernels("cuda", only="triton") would be; the tensors are the CPU's."""

    device, pads = "cpu", False

    def __init__(self):
        for op in OPS + ROUND_OPS + FAMILY_OPS:
            setattr(self, op, candidate.offer(op, "cuda"))

    def linear(self, format: str) -> LinearKernel:
        return candidate.offer(f"linear_{format}", "cuda")

    def experts(self, format: str) -> ExpertsKernel | None:
        answer = candidate.offer(f"experts_{format}", "cuda")
        return None if isinstance(answer, Declined) else answer

    def gate_up(self, format: str) -> GateUpKernel | None:
        answer = candidate.offer(f"gate_up_{format}", "cuda")
        return None if isinstance(answer, Declined) else answer

    def tape(self) -> None:
        """Nothing is recorded here."""

    def recorded(self, op: str) -> bool:
        return False


KERNELS = Interpreted()
