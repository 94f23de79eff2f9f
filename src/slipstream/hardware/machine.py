"""The facts of this machine. Owns what /proc and /sys say; probes no speed and decides nothing.

No function here raises for what a machine lacks: an unknown fact is None.
"""

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from slipstream.hardware.cgroup import least, number_of, text_of
from slipstream.hardware.cgroup import read as read_limits
from slipstream.hardware.gpu import Gpu
from slipstream.hardware.gpu import read as read_gpus

PROC, SYS = Path("/proc"), Path("/sys")
# /proc's flag -> our name, in the order in which they are reported
ISA = {
    **{name: name for name in ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni")},
    **{name: name for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16")},
    **{"amx_tile": "amx", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16"},
    **{"asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "arm_bf16", "sve": "sve", "sve2": "sve2"},
}
_UNITS = {"": 1, "B": 1, "K": 1 << 10, "KB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "G": 1 << 30, "GB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Cache:
    """Data caches of one level: bytes of one of them, and how many there are."""

    level: int
    size: int
    instances: int


@dataclass(frozen=True, slots=True)
class Processor:
    """What /proc/cpuinfo says.

    Attributes:
        name: as sold.
        isa: instruction sets of ISA that it has, None where there is no flags line.
        cores: (package, core) of each logical processor by its number; empty where not said.
        logical: how many logical processors are listed.
    """

    name: str | None
    isa: tuple[str, ...] | None
    cores: dict[int, tuple[int, int]]
    logical: int | None

    def physical(self, of: Collection[int] | None = None) -> int | None:
        """Distinct cores of all logical processors, or of those given."""
        found = {core for number, core in self.cores.items() if of is None or number in of}
        return len(found) or None


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of a machine; None means unknown. Sizes in bytes.

    Attributes:
        cpu: name of the processor.
        architecture: "x86_64", "aarch64"...
        physical_cores, logical_cpus: of the whole machine.
        usable_cores: physical cores that this process may run on.
        cpu_quota: processors that its control group may use at a time, None without a limit.
        isa: instruction sets, by the kernel's names ("avx2", "avx512_vnni", "amx"...).
        caches: data caches by level.
        memory_total: of the machine, or of the control group if that is less.
        memory_available: what new allocations can have now, under the same limits.
        memory_limit: limit of the control group, None without one.
        huge_pages: transparent huge pages: "always", "madvise" or "never".
        huge_page_size: of explicit huge pages; huge_pages_free: how many are reserved and free.
        gpus: () for none.
        os, python: versions.
    """

    cpu: str | None
    architecture: str | None
    physical_cores: int | None
    logical_cpus: int | None
    usable_cores: int | None
    cpu_quota: float | None
    isa: tuple[str, ...] | None
    caches: tuple[Cache, ...] | None
    memory_total: int | None
    memory_available: int | None
    memory_limit: int | None
    huge_pages: str | None
    huge_page_size: int | None
    huge_pages_free: int | None
    gpus: tuple[Gpu, ...] | None
    os: str
    python: str

    @property
    def l2(self) -> int | None:
        """Bytes of one L2 cache."""
        return self._cache(2)

    @property
    def l3(self) -> int | None:
        """Bytes of one L3 cache."""
        return self._cache(3)

    @property
    def threads(self) -> int:
        """How many threads can compute at a time: usable cores, or less under a quota; at least 1."""
        cores = self.usable_cores or self.physical_cores or self.logical_cpus or 1
        return max(1, min(cores, int(self.cpu_quota))) if self.cpu_quota else cores

    def _cache(self, level: int) -> int | None:
        return next((cache.size for cache in self.caches or () if cache.level == level), None)


def read(proc: Path = PROC, sys: Path = SYS, *, root: Path = Path("/"), with_gpus: bool = True) -> Machine:
    """The facts of this machine; takes a few milliseconds, at most 2 s more where GPUs are asked for.

    Args:
        proc, sys, root: where the system's files are.
        with_gpus: False leaves nvidia-smi alone; `gpus` is then None.
    """
    processor = parse_cpuinfo(text_of(proc / "cpuinfo") or "")
    memory = parse_meminfo(text_of(proc / "meminfo") or "")
    limits = read_limits(proc, root)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return Machine(
        cpu=processor.name,
        architecture=platform.machine() or None,
        physical_cores=processor.physical(),
        logical_cpus=processor.logical or os.cpu_count(),
        usable_cores=processor.physical(allowed) or (len(allowed) if allowed else None),
        cpu_quota=limits.cpus,
        isa=processor.isa,
        caches=read_caches(sys / "devices/system/cpu"),
        memory_total=least(memory.get("MemTotal"), limits.memory),
        memory_available=least(memory.get("MemAvailable", memory.get("MemFree")), limits.memory_free),
        memory_limit=limits.memory,
        huge_pages=parse_choice(text_of(sys / "kernel/mm/transparent_hugepage/enabled") or ""),
        huge_page_size=memory.get("Hugepagesize"),
        huge_pages_free=memory.get("HugePages_Free"),
        gpus=read_gpus() if with_gpus else None,
        os=f"{platform.system()} {platform.release()}".strip(),
        python=platform.python_version(),
    )


def parse_cpuinfo(text: str) -> Processor:
    """/proc/cpuinfo of x86 or Arm."""
    name: str | None = None
    isa: tuple[str, ...] | None = None
    cores: dict[int, tuple[int, int]] = {}
    logical = 0
    for block in text.split("\n\n"):
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        number = number_of(fields.get("processor"))
        if number is None:
            continue
        logical += 1
        name = name or fields.get("model name")
        flags = fields.get("flags", fields.get("Features"))
        if isa is None and flags is not None:
            present = set(flags.split())
            isa = tuple(ours for flag, ours in ISA.items() if flag in present)
        package, core = number_of(fields.get("physical id")), number_of(fields.get("core id"))
        if core is not None:
            cores[number] = (package or 0, core)
    return Processor(name, isa, cores, logical or None)


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo: bytes by name; entries without a unit are counts."""
    out = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        size = parse_size(rest)
        if size is not None:
            out[name.strip()] = size
    return out


def parse_size(text: str) -> int | None:
    """"1024K", "32 MB" or "7" -> bytes, in powers of two as /proc and /sys mean them; None for anything else."""
    text = text.strip().upper()
    digits = text.rstrip("BKMG ")
    unit = text[len(digits) :].strip()
    return int(digits) * _UNITS[unit] if digits.isascii() and digits.isdigit() and unit in _UNITS else None


def parse_choice(text: str) -> str | None:
    """"always [madvise] never" -> "madvise"."""
    _, bracket, rest = text.partition("[")
    return rest.partition("]")[0] or None if bracket else None


def read_caches(folder: Path) -> tuple[Cache, ...] | None:
    """Data and unified caches below /sys/devices/system/cpu, by level; None where none are listed."""
    found: dict[tuple[int, int], set[str]] = {}
    for index in sorted(folder.glob("cpu[0-9]*/cache/index[0-9]*")):
        level, size = number_of(text_of(index / "level")), parse_size(text_of(index / "size") or "")
        shared = (text_of(index / "shared_cpu_list") or str(index)).strip()
        if level is not None and size and (text_of(index / "type") or "").strip() != "Instruction":
            found.setdefault((level, size), set()).add(shared)
    return tuple(Cache(level, size, len(shared)) for (level, size), shared in sorted(found.items())) or None
