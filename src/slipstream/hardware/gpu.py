"""NVIDIA GPUs, as nvidia-smi names them. Owns that question and its time limit; no CUDA is initialised here."""

import shutil
import subprocess
from dataclasses import dataclass

SECONDS = 2.0
FIELDS = ("name", "memory.total", "memory.free", "compute_cap", "driver_version")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Memory in bytes; capability as (9, 0); None where the driver does not say."""

    name: str
    memory_total: int | None = None
    memory_free: int | None = None
    capability: tuple[int, int] | None = None
    driver: str | None = None


def read(command: str = "nvidia-smi") -> tuple[Gpu, ...] | None:
    """The GPUs of this machine; () without an NVIDIA driver, None if the driver's tool failed or took over 2 seconds."""
    path = shutil.which(command)
    if path is None:
        return ()
    query = [path, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(done.stdout) if done.returncode == 0 else None


def parse(text: str) -> tuple[Gpu, ...]:
    """nvidia-smi's CSV lines, in the order of FIELDS. Lines of another form ("No devices were found") are no GPU."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(FIELDS):
            continue
        name, total, free, capability, driver = fields
        major, _, minor = capability.partition(".")
        known = major.isdigit() and minor.isdigit()
        version = driver if driver[:1].isdigit() else None
        gpus.append(Gpu(name, _mib(total), _mib(free), (int(major), int(minor)) if known else None, version))
    return tuple(gpus)


def _mib(text: str) -> int | None:
    return int(text) * MIB if text.isdigit() else None
