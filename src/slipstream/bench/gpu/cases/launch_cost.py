"""Launch cost: what a kernel costs before it does anything; decides how much fusing and graphs are worth."""

import time

import torch

from slipstream.bench.gpu import kernels
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.clock import in_turn, record

QUESTION = "What does a kernel launch cost on the host and on the device, with and without a graph?"
ORDER, SECONDS = 30, 25
CALLS, DRY_CALLS = 2000, 3
IN_GRAPH = 100


def measure(bench: Bench) -> None:
    x = torch.zeros(16, device=bench.device)
    twin = torch.zeros(16, device=bench.device)
    small = torch.zeros(64, 64, device=bench.device).bfloat16()
    out = torch.zeros_like(small)
    ways = {
        "Triton kernel, one program": lambda: kernels.nothing(x),
        "torch add in place": lambda: x.add_(1),
        "torch copy of 64 bytes": lambda: twin.copy_(x),
        "torch mm 64x64": lambda: torch.mm(small, small, out=out),
    }
    if not bench.dry:
        ways["Triton kernel, dependent launch"] = lambda: kernels.dependent(x)
    bench.each(list(ways), lambda name: f"host: {name}", lambda name: host(bench, name, ways[name]))
    bench.each(list(ways), lambda name: f"device: {name}", lambda name: device(bench, name, ways[name]))
    bench.one("graph of one", lambda: replay(bench, ways["Triton kernel, one program"], 1))
    bench.one(f"graph of {IN_GRAPH}", lambda: replay(bench, ways["Triton kernel, one program"], IN_GRAPH))
    bench.one("step of a dependent host", lambda: round_trip(bench, x))


def host(bench: Bench, name: str, call) -> None:
    """Wall time of the launching thread, the device far behind; and with a synchronisation at the end."""
    count = bench.pick(CALLS, DRY_CALLS)
    for _ in range(3):
        call()
    bench.clock.synchronize()
    samples, whole = [], []
    for _ in range(bench.pick(5, 2)):
        began = time.perf_counter()
        for _ in range(count // 5 or 1):
            call()
        samples.append((time.perf_counter() - began) / (count // 5 or 1))
        bench.clock.synchronize()
        whole.append((time.perf_counter() - began) / (count // 5 or 1))
    bench.row(what=name, where="host thread", us=min(samples) * 1e6, with_device_us=min(whole) * 1e6, raw=samples)


def device(bench: Bench, name: str, call) -> None:
    """Time per launch on the device: from the host, and back to back in a graph."""
    ways = {"launched": bench.clock.time([call], graph=False), "graph": bench.clock.time([call])}
    for way, timing in ways.items():
        bench.row(what=name, where=f"device, {way}", us=timing.median * 1e6, spread=timing.spread, way=timing.way)


def replay(bench: Bench, call, count: int) -> None:
    """Host time to ask for a replay, and the time until the device has done it."""
    if bench.dry:
        bench.unavailable(f"graph of {count}", "needs a device; the kernel itself ran singly")
        call()
        return
    graph = record(lambda: in_turn([call] * count))
    asked, done = [], []
    for _ in range(200):
        torch.cuda.synchronize()
        began = time.perf_counter()
        graph.replay()
        asked.append(time.perf_counter() - began)
        torch.cuda.synchronize()
        done.append(time.perf_counter() - began)
    asked.sort()
    done.sort()
    bench.row(what=f"replay of {count} kernels", where="host thread", us=asked[100] * 1e6, with_device_us=done[100] * 1e6, raw=done)


def round_trip(bench: Bench, x: torch.Tensor) -> None:
    """What every step of generation pays at least: one kernel, one number back to the host, one number up again."""
    count = bench.pick(200, DRY_CALLS)
    samples = []
    for number in range(count):
        began = time.perf_counter()
        x.fill_(number)
        x[0].item()
        samples.append(time.perf_counter() - began)
    samples.sort()
    bench.row(what="kernel and one number back", where="host thread", us=samples[count // 2] * 1e6, raw=samples)


def answer(rows: list[dict]) -> list[str]:
    return [f"{row['what']} ({row['where']}): {row['us']:.2f} us" for row in rows if row["what"].startswith(("Triton", "replay", "kernel"))]
