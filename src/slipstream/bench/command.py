"""`slipstream bench CASE` for every file of cases/: arguments in, table and result file out."""

import shlex
import sys
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.bench import arguments

if TYPE_CHECKING:
    from slipstream.bench.driver import Run


def measure(
    ctx: typer.Context,
    model: arguments.Model = None,
    batch: Annotated[str | None, typer.Option(metavar="N,N,...", help="Batch sizes (default: the case's).", show_default=False)] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Prompt lengths (default: the case's).", show_default=False)
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(min=1, help="New tokens per request (default: the case's).", show_default=False)] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 3,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
    device: arguments.Device = "cpu",
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    activations: arguments.Activations = None,
    kv: arguments.Kv = None,
    memory: arguments.Memory = None,
    speculate: arguments.Speculate = "none",
    target_itl: arguments.TargetItl = None,
    kernels: arguments.KernelSet = None,
) -> None:
    """Measures one model over batch sizes and prompt lengths, and writes a result file."""
    case = ctx.info_name
    options = arguments.given(
        device=device,
        speculate=speculate,
        threads=threads,
        quant=quant,
        activations=activations,
        kv=kv,
        memory=arguments.parse_size(memory),
        target_itl=target_itl,
        kernels=kernels,
    )
    grid = {"batch": numbers("--batch", batch), "prompt_tokens": numbers("--prompt-tokens", prompt_tokens)}

    from slipstream.bench import driver, results

    ask = driver.Ask(case, model, **grid, new_tokens=new_tokens, repeat=repeat, options=options)
    llm, runs = driver.run(ask, say=lambda line: typer.secho(line, dim=True, err=True))
    show(registry.load(driver.CASES, case), runs)
    path = results.write(results.record(ask, llm, runs, command_line()), out)
    typer.secho(f"written: {path}", dim=True, err=True)
    llm.close()


def command_line() -> str:
    """What was typed, whichever way the program was started."""
    program = ("python", "-m", "slipstream.bench") if Path(sys.argv[0]).name == "__main__.py" else ("slipstream",)
    return shlex.join([*program, *sys.argv[1:]])


def numbers(name: str, text: str | None) -> tuple[int, ...]:
    """ "1,8" -> (1, 8)."""
    try:
        return tuple(int(part) for part in text.replace(",", " ").split()) if text is not None else ()
    except ValueError:
        raise InputError(f"{name} {text!r}: give whole numbers with commas between them, for instance 1,8") from None


def show(case: ModuleType, runs: "list[Run]") -> None:
    """One line per point: the case's figures, then per span the share of the limit and what it is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    shares = {name: None for run in runs for name in run.shares()}
    table = Table(
        "batch", "prompt", "new", *(title for title, _, _ in case.COLUMNS), *(f"{name}: share of limit" for name in shares), box=None
    )
    for run in runs:
        reached, binds = run.shares(), run.binds()
        table.add_row(
            *(str(number) for number in (run.point.batch, run.point.prompt_tokens, run.point.new_tokens)),
            *(f"{run.figure(name) * factor:,.2f}" for _, name, factor in case.COLUMNS),
            *(share_text(reached.get(name), binds.get(name)) for name in shares),
        )
    console.print(table)
    for run in runs:
        limit = run.limit
        peaks = ", ".join(f"{peak:,.0f} Gop/s {kind}" for kind, peak in limit.peaks.items())
        size = f"{limit.working_set / 2**20:.1f} MiB"
        console.print(
            f"limit at batch {run.point.batch}, prompt {run.point.prompt_tokens}: {limit.bandwidth:.1f} GB/s at {size}, {peaks}",
            style="dim",
        )
    if any(share > 1 for run in runs for values in run.shares().values() for share in values):
        console.print("A share above 100% says that something else slowed the probes; repeat on a quiet machine.", style="red")


def share_text(values: list[float] | None, binds: str | None) -> str:
    return f"{median(values):.0%} ({binds})" if values else "-"
