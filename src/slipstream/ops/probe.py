"""What this machine can do: read bandwidth by working-set size, and peaks of multiply-adds.

Owns the measurements behind every "share of the limit". Must not know models or costs. Where there is no native module it falls back
on torch, which reaches less; `source` says which of the two measured.
"""

import threading
import time
from collections.abc import Callable
from statistics import median

import torch

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.base.registry import unknown

KINDS = ("fp32", "bf16", "int8", "int4")  # int4: products of 4-bit weights with bytes
ON_GPUS = (*KINDS, "fp8")
source = f"native ({native.module.isa()})" if native.module else f"torch, a lower bound ({native.reason})"


def read_bandwidth(bytes: int, threads: int, seconds: float = 0.2, device: str = "cpu") -> float:
    """GB/s (1e9 bytes) at which `threads` threads together read a working set of `bytes` again and again, in 2 MiB pages where possible.
    On a GPU: at which a copy within it moves that many bytes, those read and those written.

    Raises:
        InputError: less than 1 KiB per thread, or no thread.
    """
    if threads < 1 or bytes < 1024 * threads:
        raise InputError(f"bytes={bytes}, threads={threads}: needs at least one thread and 1 KiB for each")
    if device != "cpu":
        return _copy_bandwidth(bytes, seconds, device)
    if native.module:
        return native.module.read_bandwidth(bytes, threads, seconds) / 1e9
    parts = [torch.ones(bytes // threads // 8, dtype=torch.int64) for _ in range(threads)]
    return _rate(threads, seconds, lambda t: (parts[t].sum(), parts[t].nbytes)[1]) / 1e9


def peak(kind: str, threads: int, seconds: float = 0.1, device: str = "cpu") -> float:
    """Gop/s (two operations per multiply-add) of `threads` threads that multiply registers of one of KINDS.
    On a GPU: of a large matrix product of random numbers, of one of ON_GPUS.

    Where the machine has no bf16 instruction, bf16 is what widening to fp32 reaches.

    Raises:
        InputError: unknown kind, or no thread.
    """
    kinds = KINDS if device == "cpu" else ON_GPUS
    if kind not in kinds:
        raise unknown("kind", kind, kinds)
    if threads < 1:
        raise InputError(f"threads={threads}: must be at least 1")
    if device != "cpu":
        return _product_peak(kind, seconds, device)
    if native.module:
        return native.module.peak(KINDS.index(kind), threads, seconds) / 1e9
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(kind, torch.int8)
    size = 256
    squares = [torch.ones(size, size, dtype=dtype) for _ in range(threads)]
    multiply = torch._int_mm if dtype is torch.int8 else torch.mm
    return _rate(threads, seconds, lambda t: (multiply(squares[t], squares[t]), 2.0 * size**3)[1]) / 1e9


def _copy_bandwidth(bytes: int, seconds: float, device: str) -> float:
    source = torch.ones(max(bytes // 2, 1024), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds_per_call(lambda: target.copy_(source), seconds, device) / 1e9


def _product_peak(kind: str, seconds: float, device: str) -> float:
    size = 8192 if kind != "fp32" else 4096
    if kind in ("int8", "int4"):
        left, right = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device) for _ in range(2))
        product: Callable[[], object] = lambda: torch._int_mm(left, right)  # noqa: E731
    elif kind == "fp8":
        left, right = (torch.randn(size, size, device=device).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=device)
        product = lambda: torch._scaled_mm(left, right.t(), one, one, out_dtype=torch.bfloat16)  # noqa: E731
    else:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
        left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        product = lambda: torch.mm(left, right)  # noqa: E731
    return 2.0 * size**3 / _seconds_per_call(product, seconds, device) / 1e9


def _seconds_per_call(call: Callable[[], object], seconds: float, device: str) -> float:
    """Median over rounds of ten calls, timed by events on the device, after a round to warm up."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    rounds: list[float] = []
    with torch.cuda.device(device):
        started = time.perf_counter()
        while len(rounds) < 3 or time.perf_counter() - started < seconds:
            begin.record()
            for _ in range(10):
                call()
            end.record()
            end.synchronize()
            rounds.append(begin.elapsed_time(end) / 1e4)
    return median(rounds[1:])


def _rate(threads: int, seconds: float, step: Callable[[int], float]) -> float:
    """Amounts per second of step(thread), summed over threads that start together."""
    rates, start_line = [0.0] * threads, threading.Barrier(threads)

    def work(t: int) -> None:
        start_line.wait()
        start, amount, spent = time.perf_counter(), 0.0, 0.0
        while spent < seconds:
            amount += step(t)
            spent = time.perf_counter() - start
        rates[t] = amount / spent

    others = [threading.Thread(target=work, args=(t,)) for t in range(1, threads)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    return sum(rates)
