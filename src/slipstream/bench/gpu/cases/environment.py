"""Environment: what machine this is, and what works on it at all."""

import importlib
import os
import platform
import shutil
import subprocess
import time
from dataclasses import asdict
from importlib import metadata

import torch

from slipstream.base import native
from slipstream.bench.gpu.bench import Bench, Unavailable
from slipstream.hardware import read

QUESTION = "What machine is this, and what works on it?"
ORDER, SECONDS = 10, 25
PACKAGES = ("torch", "triton", "numpy", "safetensors", "tokenizers", "jinja2", "nanobind", "scikit-build-core", "gemlite", "pytest")
SMI = "name,driver_version,memory.total,memory.free,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw"


def measure(bench: Bench) -> None:
    bench.one("versions", lambda: versions(bench))
    bench.one("machine", lambda: bench.row(what="machine", value=f"{os.cpu_count()} cpus, {platform.platform()}", raw=asdict(read())))
    bench.one("native module", lambda: bench.row(what="native module", value="loads" if native.module is not None else native.reason))
    bench.one("nvidia-smi", lambda: smi(bench))
    bench.one("device", lambda: device(bench))
    bench.one("triton", lambda: first_launch(bench))
    bench.one("cuda graph", lambda: graph(bench))


def versions(bench: Bench) -> None:
    bench.row(what="python", value=platform.python_version())
    for package in PACKAGES:
        try:
            bench.row(what=package, value=metadata.version(package))
        except metadata.PackageNotFoundError:
            bench.row(what=package, value="not installed")
    bench.row(what="cuda of torch", value=str(torch.version.cuda))
    for tool in ("nvcc", "cmake", "ninja", "ncu", "cuobjdump"):
        bench.row(what=tool, value=shutil.which(tool) or "not there")


def smi(bench: Bench) -> None:
    """Clocks and temperature as they are found; nothing is set."""
    if shutil.which("nvidia-smi") is None:
        raise Unavailable("no nvidia-smi here")
    command = ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    for name, value in zip(SMI.split(","), done.stdout.strip().splitlines()[0].split(","), strict=True):
        bench.row(what=name, value=value.strip())


def device(bench: Bench) -> None:
    if bench.dry:
        raise Unavailable("needs a device: its properties; without one only the other lines were looked at")
    properties = torch.cuda.get_device_properties(0)
    for name in ("name", "major", "minor", "multi_processor_count", "L2_cache_size", "total_memory", "shared_memory_per_block_optin"):
        bench.row(what=name, value=str(getattr(properties, name, "not told")))


def first_launch(bench: Bench) -> None:
    """A first Triton kernel: compiler, assembler and launcher work (the launcher is built with a C compiler)."""
    kernels = importlib.import_module("slipstream.bench.gpu.kernels")
    x = kernels.noise(1 << 16, bench.device)
    sums = torch.zeros(x.numel() // kernels.BLOCK, device=bench.device)
    began = time.perf_counter()
    kernels.read(x, sums)
    bench.clock.synchronize()
    seconds = time.perf_counter() - began
    right = torch.allclose(sums.double(), x.view(-1, kernels.BLOCK).sum(1, dtype=torch.float64), rtol=1e-5)
    bench.row(what="first Triton kernel", value=f"{'right' if right else 'WRONG'}, {seconds:.2f} s with compiling")


def graph(bench: Bench) -> None:
    if bench.dry:
        raise Unavailable("needs a device: CUDA graphs; without one calls are timed singly by the wall clock")
    x = torch.zeros(1 << 20, device=bench.device)
    timing = bench.clock.time([lambda: x.add_(1)])
    bench.row(what="CUDA graph", value=f"records and replays; add of 4 MB {timing.median * 1e6:.2f} us")


def answer(rows: list[dict]) -> list[str]:
    found = {row["what"]: row["value"] for row in rows}
    wanted = ("name", "driver_version", "torch", "triton", "python", "native module", "first Triton kernel")
    return ["; ".join(f"{name} {found[name]}" for name in wanted if name in found)]
