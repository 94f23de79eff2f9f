"""`slipstream doctor`: what this machine is, what will run on it and how fast it could be.

Owns the choice and the look of the facts. They are read by hardware/, ops/ and engine/limit.py.
"""

import json
import platform
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

import slipstream

if TYPE_CHECKING:
    from rich.console import Console

    from slipstream.hardware import Machine

SIZES = (256 * 2**10, 4 * 2**20, 16 * 2**20, 256 * 2**20)  # bytes: within L2, within L3, about the built-in model, DRAM
KINDS = ("int8", "bf16", "fp32")
GAIN = ("demo", "llama-3.2-1b")  # shapes whose gain by int8 is shown
CONTEXT = 256  # cached tokens of the decode step for that
PACKAGES = ("torch", "numpy", "safetensors", "tokenizers")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Shows the machine, the kernels that will be used, probed speeds and what --quant int8 would gain."""
    from slipstream.hardware import read
    from slipstream.ops import probe
    from slipstream.ops.dispatch import Kernels

    machine = read()
    kernels = Kernels()
    facts = {
        "machine": asdict(machine),
        "versions": versions(),
        "native": native_module(),
        "numerics": f"{kernels.profile}/w-bf16/kv-bf16",
        "kernels": [asdict(choice) for choice in kernels.choices()],
        "gpu_tables": gpu_tables(),
        "probe": probe.source,
        "bandwidth": bandwidth(machine),
        "peaks": peaks(machine),
        "int8": [gain(name, machine) for name in GAIN],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        show(facts)


def versions() -> dict[str, str]:
    """Versions of Python, Slipstream and what it stands on."""
    return {
        "slipstream": slipstream.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def native_module() -> dict[str, Any]:
    from slipstream.base import native

    return {"loaded": native.module is not None, "reason": native.reason}


def gpu_tables() -> str:
    """Where the tables of fast settings for a GPU are from."""
    from slipstream.ops.triton import tuned

    return str(tuned.source())


def bandwidth(machine: "Machine") -> list[dict[str, Any]]:
    """GB/s by size of the working set, by one thread and by all."""
    from slipstream.ops import probe

    room = (machine.memory_available or 2**40) // 4
    sizes = [size for size in SIZES if size <= room]
    return [
        {"bytes": size, "threads": threads, "gb_s": probe.read_bandwidth(size, threads)}
        for size in sizes
        for threads in thread_counts(machine)
    ]


def peaks(machine: "Machine") -> list[dict[str, Any]]:
    """Gop/s by kind of arithmetic; a multiply-add is two."""
    from slipstream.ops import probe

    return [{"kind": kind, "threads": threads, "gop_s": probe.peak(kind, threads)} for kind in KINDS for threads in thread_counts(machine)]


def thread_counts(machine: "Machine") -> list[int]:
    return sorted({1, machine.threads})


def gain(name: str, machine: "Machine") -> dict[str, Any]:
    """Most tokens per second at batch 1 that the machine allows a shape in bf16 and in int8."""
    from slipstream.arch import shape
    from slipstream.cost import Work
    from slipstream.engine.limit import Limit
    from slipstream.engine.meter import StepRecord

    step = StepRecord(Work.of([(CONTEXT, 1, ())], sampled=1), tokens=1, requests=1, seconds=0.0)
    out: dict[str, Any] = {"model": name}
    for format in ("bf16", "int8"):
        limit = Limit(shape(name), format, "bf16", machine.threads, CONTEXT)
        limit.probe()
        out[format] = {"bytes": limit.cost(step).bytes, "tokens_per_s": 1 / limit.seconds(step), "binds": limit.binds([step])}
    out["gain"] = out["int8"]["tokens_per_s"] / out["bf16"]["tokens_per_s"]
    return out


def show(facts: dict[str, Any]) -> None:
    """The facts as tables."""
    from rich.console import Console

    console = Console(highlight=False)
    machine_table(console, facts)
    kernel_table(console, facts["kernels"])
    speed_table(console, facts)
    for one in facts["int8"]:
        before, after = one["bf16"], one["int8"]
        console.print(
            f"--quant int8 on {one['model']}: at most {after['tokens_per_s']:,.0f} tokens/s instead of {before['tokens_per_s']:,.0f} "
            f"at batch 1 ({one['gain']:.1f}x; {after['bytes'] / 2**20:,.0f} instead of {before['bytes'] / 2**20:,.0f} MiB per token; "
            f"{after['binds']} binds)",
            soft_wrap=True,
        )


def machine_table(console: "Console", facts: dict[str, Any]) -> None:
    from rich.table import Table

    from slipstream.cost.memory import human

    machine, native = facts["machine"], facts["native"]
    table = Table("", "", show_header=False, box=None)
    table.columns[1].overflow = "fold"  # a path is of no use without its end
    caches = ", ".join(
        f"L{c['level']} {human(c['size'])}" + (f" x {c['instances']}" if c["instances"] > 1 else "") for c in machine["caches"] or ()
    )
    memory = [human(machine[name]) if machine[name] is not None else "unknown" for name in ("memory_available", "memory_total")]
    gpus = (
        ", ".join(gpu["name"] for gpu in machine["gpus"] or ()) or "none" if machine["gpus"] is not None else "unknown (nvidia-smi failed)"
    )
    rows = {
        "cpu": f"{machine['cpu'] or 'unknown'} ({machine['architecture']})",
        "cores": f"{machine['physical_cores']} cores, {machine['logical_cpus']} logical, {machine['usable_cores']} usable"
        + (f", quota {machine['cpu_quota']}" if machine["cpu_quota"] else ""),
        "isa": " ".join(machine["isa"] or ("unknown",)),
        "caches": caches or "unknown",
        "memory": f"{memory[0]} available of {memory[1]}; huge pages: {machine['huge_pages'] or 'unknown'}",
        "gpu": f"{gpus} (this version computes on the CPU)" if machine["gpus"] else gpus,
        "system": machine["os"],
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "native": "loaded" if native["loaded"] else f"not loaded: {native['reason']}; the reference kernels serve, slower",
        "numerics": f"{facts['numerics']} (built-in model)",
    }
    if machine["gpus"]:
        rows["gpu tables"] = f"{facts['gpu_tables']} (`slipstream tune` measures this GPU and writes its own)"
    for name, value in rows.items():
        table.add_row(f"[bold]{name}", value)
    console.print(table)


def kernel_table(console: "Console", choices: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("op", "kernel", "why not the ones before it", box=None, title="kernels", title_justify="left")
    for choice in choices:
        table.add_row(choice["op"], choice["chosen"], "; ".join(f"{name}: {reason}" for name, reason in choice["declined"]))
    console.print(table)


def speed_table(console: "Console", facts: dict[str, Any]) -> None:
    """Probed speeds; one column per number of threads."""
    from rich.table import Table

    from slipstream.cost.memory import human

    threads = sorted({row["threads"] for row in facts["peaks"]})
    headings = [f"{count} thread{'s' if count > 1 else ''}" for count in threads]
    table = Table(f"probed by {facts['probe']}", *headings, box=None, title="speeds", title_justify="left")
    for size in dict.fromkeys(row["bytes"] for row in facts["bandwidth"]):
        table.add_row(f"read {human(size)}", *(f"{row['gb_s']:.1f} GB/s" for row in facts["bandwidth"] if row["bytes"] == size))
    for kind in KINDS:
        table.add_row(f"{kind} multiply-add", *(f"{row['gop_s']:,.0f} Gop/s" for row in facts["peaks"] if row["kind"] == kind))
    console.print(table)
