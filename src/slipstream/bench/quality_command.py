"""`slipstream bench quality`: arguments in; table of what rounding does to a model, and a result file, out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.base.errors import InputError
from slipstream.bench import arguments
from slipstream.bench.command import command_line

if TYPE_CHECKING:
    from slipstream.bench.quality import Quality


def quality(
    model: arguments.Model = None,
    text: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A text to read, UTF-8; repeatable.")] = None,
    books: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Without --text: the built-in model's books, whose held-out chapters are read.")
    ] = None,
    ways: Annotated[
        str | None, typer.Option(metavar="WAY,...", help="Only these, as FORMAT or FORMAT/ACTIVATIONS: int4/32,fp6 (default: all).")
    ] = None,
    threads: arguments.Threads = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
) -> None:
    """Reads a text in every weight format, the model as it is and with outlier channels; docs/benchmarks.md explains the table."""
    if text and books:
        raise InputError(f"--text {text[0]} with --books {books}: only one of them is read; give one")
    from slipstream.bench import quality as case
    from slipstream.bench import results

    texts = [case.plain(path) for path in text] if text else case.held_out(books)
    found = case.run(model, texts, threads, lambda line: typer.secho(line, dim=True, err=True), ways and ways.split(","))
    show(found)
    path = results.write(results.quality_record(found, command_line()), out)
    typer.secho(f"written: {path}", dim=True, err=True)


def show(found: "Quality") -> None:
    """One line per twin and way."""
    from rich.console import Console
    from rich.table import Table

    console, last = Console(highlight=False), None
    table = Table("outliers", "weights", "activations", "bits/byte", "perplexity", "change", "MB", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    for score in found.scores:
        scale = score.way.scale
        table.add_row(
            "" if score.factor == last else f"x{score.factor}" if score.factor > 1 else "none",
            *(score.way.weights, "fp32" if scale is None else "e4m3 per row" if scale == "fp8" else f"int8 per {scale}"),
            *(f"{found.bits_per_byte(score):.4f}", f"{found.perplexity(score):.3f}", f"{found.change(score):+z.2%}"),
            f"{score.bytes / 1e6:,.2f}",
        )
        last = score.factor
    console.print(table)
    read = f"{found.spec.name}: {len(found.texts)} texts, {found.text_bytes:,} bytes, {found.tokens:,} tokens predicted"
    console.print(f"{read}; {found.kernels}, KV in fp32; change is of the perplexity; MB of weights", style="dim", soft_wrap=True)
