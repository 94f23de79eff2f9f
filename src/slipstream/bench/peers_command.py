"""`slipstream bench peers`: arguments in; table of Slipstream against other engines, and a result file, out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.bench import arguments
from slipstream.bench.command import command_line, numbers

if TYPE_CHECKING:
    from slipstream.bench.comparison import Comparison, Place

UNDONE = 1  # exit code where a peer that was asked for could not be measured to the end


def peers(
    shape: Annotated[str, typer.Option(help="Named shape, given random weights.")] = "llama-3.2-1b",
    peer: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VENV", help="An engine and its venv, for instance llama_cpp=./venv; repeatable.")
    ] = None,
    weights: Annotated[str, typer.Option(metavar="TYPE", help="GGUF type of all matrices: Q4_0, Q8_0, BF16.")] = "Q4_0",
    batch: Annotated[str, typer.Option(metavar="N,N,...", help="Sequences that decode together.")] = "1,2,4,8,16,32",
    prompt_tokens: Annotated[str, typer.Option(metavar="N,N,...", help="Lengths of single prompts.")] = "512,2048",
    new_tokens: Annotated[int, typer.Option(min=2, help="New tokens of each sequence in a decode turn.")] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 5,
    threads: arguments.Threads = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
) -> None:
    """Runs Slipstream against other engines, same weights and prompts, taking turns; docs/benchmarks.md says how to install them.

    Exit code 1 if an engine that was asked for could not be measured.
    """
    venvs = dict(map(named, peer or ()))
    if len(venvs) < len(peer or ()):
        raise InputError(f"--peer {' '.join(peer or ())}: names an engine twice; run the command again for the other venv")
    grid = {"batch": numbers("--batch", batch), "prompt_tokens": numbers("--prompt-tokens", prompt_tokens)}

    from slipstream.bench import comparison, results

    ask = comparison.Ask(shape, venvs, weights, **grid, new_tokens=new_tokens, repeat=repeat, threads=threads)
    found = comparison.run(ask, say=lambda line: typer.secho(line, dim=True, err=True))
    show(found)
    path = results.write(results.comparison_record(found, command_line()), out)
    typer.secho(f"written: {path}", dim=True, err=True)
    if any(one.failure for one in found.runners):
        raise typer.Exit(UNDONE)


def named(text: str) -> tuple[str, Path]:
    """ "llama_cpp=VENV", or llama-cpp -> ("llama_cpp", VENV)."""
    name, equals, venv = text.partition("=")
    if not name or not equals or not venv:
        raise InputError(f"--peer {text!r}: give a name and a venv, for instance llama_cpp=./llama-venv")
    return name.replace("-", "_"), Path(venv)


def show(found: "Comparison") -> None:
    """Per point one line for the machine and for every engine, then what must be known to read them, and who was left out and why."""
    from rich.console import Console
    from rich.table import Table

    from slipstream.bench.comparison import OWN, PEERS

    console = Console(highlight=False)
    table = Table("turn", "engine", "tokens/s", "of limit", f"{OWN} is", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for place in found.places:
        table.add_row(title(place), "(limit)", f"{place.possible():,.1f}", "", "")
        for one in found.runners:
            rate, ratio = place.rate(one.name), place.ratio(one.name)
            cells = ("-", "-") if rate is None else (f"{rate:,.1f}", f"{rate / place.possible():.0%}")
            table.add_row("", one.name, *cells, "" if one.name == OWN else "-" if ratio is None else f"{ratio:.2f}x as fast")
    console.print(table)
    size = f"{found.bytes / 1e9:.3f} GB"
    lines = [f"{found.ask.shape}: matrices in {found.ask.weights}, a step reads {size}; {found.threads} threads"]
    lines += [f"limit at {title(place)}: {limit_text(place)}" for place in found.places]
    lines += [f"{one.name}: {one.file.NOTE}{agreement(found, one.name) if one.name != OWN else ''}" for one in found.runners]
    unasked = [name for name in registry.names(PEERS) if name not in {one.name for one in found.runners}]
    lines += [f"not asked for: {', '.join(unasked)} (--peer NAME=VENV)"] if unasked else []
    for line in lines:
        console.print(line, style="dim", soft_wrap=True)
    disturbed = found.disturbed()
    if disturbed is not None:
        text = f"Something else kept {disturbed:.0%} of the cores busy between turns: do not trust these figures, repeat when it is quiet."
        console.print(text, style="red", soft_wrap=True)
    for one in found.runners:
        if one.failure:
            missing = f"; install it: {one.python} -m pip install {one.file.PACKAGE}" if "ModuleNotFoundError" in one.failure else ""
            console.print(f"left out: {one.failure}{missing}", style="red", soft_wrap=True, markup=False)


def title(place: "Place") -> str:
    return f"prompt {place.point.prompt_tokens}" if place.is_prompt else f"decode {place.point.batch}"


def limit_text(place: "Place") -> str:
    limit = place.limit
    peaks = ", ".join(f"{peak:,.0f} Gop/s {kind}" for kind, peak in limit.peaks.items())
    return f"{limit.bandwidth:.1f} GB/s at {limit.working_set / 2**20:.0f} MiB, {peaks}"


def agreement(found: "Comparison", name: str) -> str:
    """How often an engine would go on after a prompt as Slipstream does: whether both compute the same model."""
    pairs = [pair for place in found.places if (pair := place.agreeing(name))]
    same, all_of_them = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return f"; likeliest token after a prompt as ours in {same} of {all_of_them}" if pairs else ""
