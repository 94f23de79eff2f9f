"""`slipstream plan`: whether a model fits and how fast it could at best be, before its weights are loaded.

Owns the choice of steps that are shown. The sum is cost/memory.py, the speed limit cost/roofline.py, the decisions engine/resolve.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.base.errors import BackendError, InputError
from slipstream.bench import arguments

if TYPE_CHECKING:
    from slipstream.engine.resolve import Config
    from slipstream.hardware import Machine
    from slipstream.weights.source import Weights

BATCHES = (1, 8, 32)
CONTEXT = 1024  # cached tokens per request of the steps shown, where the model takes as many


@dataclass(frozen=True, slots=True)
class Roof:
    """Speeds of a device: GB/s, Gop/s by kind of arithmetic; `kind` is "cpu" or "cuda"; `where` in words."""

    kind: str
    where: str
    bandwidth: float
    peaks: Mapping[str, float]


def plan(
    model: arguments.ModelArgument = None,
    max_len: arguments.MaxLen = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Requests that run at once (default: 32).", show_default=False)] = None,
    quant: arguments.Quant = None,
    kv: arguments.Kv = None,
    memory: arguments.Memory = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda of this machine (probed), or one by name: h100, h200.")] = "cpu",
    threads: arguments.Threads = None,
) -> None:
    """Shows what MODEL would take of memory and the speed that the device allows. Loads no weights."""
    from slipstream.base.config import Options
    from slipstream.engine.resolve import resolve
    from slipstream.hardware import device as devices
    from slipstream.hardware import read

    here = re.fullmatch(r"cpu|cuda(:\d+)?", device) is not None
    stated = None if here else devices.known(device)
    kind = device if here else stated.kind
    given = arguments.given(
        max_len=max_len, max_batch=max_batch, quant=quant, kv=kv, memory=arguments.parse_size(memory), threads=threads
    )
    options = Options.of(model, {**given, "device": kind})
    weights = opened(model)
    machine = facts_here(device) if here else replace(read(with_gpus=False), memory_available=stated.memory)
    config = resolve(options, weights.spec, weights.format, machine, kind, 0, weights.as_stored)
    typer.echo(f"model   {config.model_name}, {weights.spec.parameters() / 1e6:,.1f} M parameters, stored as {weights.as_stored}")
    for line in config.memory.lines():
        typer.echo(line)
    roof = probed(config, device) if here else Roof(stated.kind, f"{stated.name}, as stated", stated.bandwidth, stated.peaks)
    for line in speed_lines(config, weights.format, roof):
        typer.echo(line)


def opened(model: str | None) -> "Weights":
    """Names, shapes and format of the weights; nothing is downloaded."""
    from slipstream.engine.build import BUILTIN
    from slipstream.model.build import DUMMY, open_weights
    from slipstream.weights import hub

    source = str(BUILTIN / "demo") if model is None else model
    wanted = None if source.startswith(DUMMY) else hub.parse(source)
    if wanted is not None and hub.cached(wanted) is None:
        raise InputError(
            f"model={str(wanted)!r}: is no path here and not in the cache ({hub.cache()}), and plan downloads nothing; "
            f"`slipstream run --model {source}` does, and dummy:SHAPE needs no weights"
        )
    return open_weights(source)


def facts_here(device: str) -> "Machine":
    """This machine, with the device's free memory as what is available."""
    import torch

    from slipstream.engine.build import facts

    number = int(device.partition(":")[2] or 0)
    if device != "cpu" and torch.cuda.device_count() <= number:
        raise BackendError(f"device={device!r}: torch sees {torch.cuda.device_count()} CUDA devices here; take cpu, or one by name (h200)")
    return facts(device)


def probed(config: "Config", device: str) -> Roof:
    """What this machine does just now, at the working set of this model."""
    from slipstream.engine.limit import Limit

    limit = Limit(config.spec, config.weight_format, config.kv, config.threads, context_of(config), device, config.activations)
    limit.probe()
    who = f"{device}, {config.threads} threads" if device == "cpu" else device
    return Roof(device.partition(":")[0], f"this machine's {who}, probed now", limit.bandwidth, limit.peaks)


def context_of(config: "Config") -> int:
    return max(1, min(CONTEXT, config.max_len - 1))


def speed_lines(config: "Config", stored: str, roof: Roof) -> list[str]:
    """The limits of decode at some batch sizes and of one prompt, which comes in the engine's chunks."""
    context, most = context_of(config), config.scheduler.max_chunk
    peaks = ", ".join(f"{speed:,.0f} Gop/s {kind}" for kind, speed in roof.peaks.items())
    lines = [
        f"limits  {roof.where}: {roof.bandwidth:,.1f} GB/s, {peaks}",
        f"        {'':22}{'ms/step':>9}  {'tokens/s':>10}  bound by",
    ]
    for batch in BATCHES:
        name, needed = f"decode, batch {batch}", batch * (context + 1)
        note = f" (needs KV for {needed:,} tokens)" if needed > config.memory.tokens else ""
        lines.append(_line(name, batch, _roofs(config, stored, roof, [[(context, 1, ())] * batch], batch), note))
    chunks = [[(start, min(most, context - start), ())] for start in range(0, context, most)]
    lines.append(_line(f"prompt of {context:,}", context, _roofs(config, stored, roof, chunks, 1), f" ({len(chunks)} steps in all)"))
    lines.append(f"        decode: {context:,} cached tokens per request; no program that keeps the numerics can be faster")
    return lines


def _roofs(config: "Config", stored: str, roof: Roof, steps: list, sampled: int) -> list:
    """The limit of each step; logits are wanted in the last one."""
    from slipstream.cost import Work, limit, step_cost

    out = []
    for number, chunks in enumerate(steps, 1):
        work = Work.of(chunks, sampled if number == len(steps) else 0, config.spec.windows)
        table = stored if stored in ("fp32", "bf16") else None
        how = {"stored": table, "device": roof.kind, "activations": config.activations}
        cost = step_cost(config.spec, config.weight_format, config.kv, work, **how)
        out.append(limit(cost, roof.bandwidth, roof.peaks))
    return out


def _line(name: str, tokens: int, limits: list, note: str = "") -> str:
    seconds = sum(limit.seconds for limit in limits)
    binds = "memory" if 2 * sum(limit.seconds for limit in limits if limit.binds == "memory") >= seconds else "compute"
    return f"        {name:<22}{seconds * 1e3:>9,.2f}  {tokens / seconds:>10,.0f}  {binds}{note}"
