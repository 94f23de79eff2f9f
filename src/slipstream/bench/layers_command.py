"""`slipstream bench layers`: arguments in; table of linear layers beside the machine's limits, and a result file, out."""

from pathlib import Path
from typing import Annotated

import typer

from slipstream.bench import arguments
from slipstream.bench.command import command_line, numbers


def layers(
    formats: Annotated[str, typer.Option(metavar="NAME,...", help="Weight formats.")] = "int4,q8_0,int8,bf16,fp32",
    activations: Annotated[
        str, typer.Option(metavar="N,...", help="Values of a row by one int8 scale, where a format has such kernels: 32, 128, row.")
    ] = "32",
    rows: Annotated[str, typer.Option(metavar="N,N,...", help="Rows of a call.")] = "1,2,4,5,8,16,32,128,512",
    n: Annotated[int, typer.Option(min=1, help="Outputs of the layer.")] = 8192,
    k: Annotated[int, typer.Option(min=1, help="Inputs of the layer.")] = 2048,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 5,
    threads: arguments.Threads = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
) -> None:
    """Measures linear layers alone, rounding of activations included, beside bandwidth and peak probed next to every call."""
    from rich.console import Console
    from rich.table import Table

    from slipstream.bench import results
    from slipstream.bench.layers import Ask, run
    from slipstream.engine.build import set_threads
    from slipstream.hardware import read
    from slipstream.ops import Kernels

    threads = threads or read(with_gpus=False).threads
    set_threads(threads)
    ask = Ask(tuple(formats.split(",")), tuple(activations.split(",")), numbers("--rows", rows), n, k, repeat, threads)
    found = run(ask, say=lambda line: typer.secho(line, dim=True, err=True))
    table = Table("format", "activations", "rows", "Gop/s", "of peak", "GB/s", "of bandwidth", box=None)
    for layer in found:
        table.add_row(layer.format, layer.activations, str(layer.rows), *layer.cells())
    Console(highlight=False).print(table)
    path = results.write(results.layers_record(ask, found, Kernels().profile, command_line()), out)
    typer.secho(f"written: {path}", dim=True, err=True)
