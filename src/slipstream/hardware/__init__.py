"""Floor 1: what the machine is. Owns the reading of facts; decides nothing with them; no torch.

    read       the facts of this machine -> Machine
    Machine    cores, instruction sets, caches, memory (with container limits), GPUs, versions; None means unknown
"""

from slipstream.hardware.gpu import Gpu
from slipstream.hardware.machine import Cache, Machine, read

__all__ = ["Cache", "Gpu", "Machine", "read"]
