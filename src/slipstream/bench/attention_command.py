"""`slipstream bench attention`: arguments in; table of attention beside the machine's limits, and a result file, out."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.base.errors import InputError
from slipstream.bench import arguments
from slipstream.bench.command import command_line

if TYPE_CHECKING:
    from slipstream.bench.attention import Point


def attention(
    kv: Annotated[str, typer.Option(metavar="TYPE,...", help="Types of the KV cache.")] = "bf16",
    points: Annotated[
        str | None, typer.Option(metavar="ROWS/CONTEXT[xREQUESTS],...", help="Default: prompts, a draft and decoding.", show_default=False)
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="Query heads.")] = 32,
    kv_heads: Annotated[int, typer.Option(min=1, help="Heads of the cache.")] = 8,
    head_dim: Annotated[int, typer.Option(min=1, help="Numbers of a head.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions; the table shows medians.")] = 5,
    threads: arguments.Threads = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
) -> None:
    """Measures attention alone over a paged cache, beside bandwidth and peak probed next to every call."""
    from rich.console import Console
    from rich.table import Table

    from slipstream.bench import results
    from slipstream.bench.attention import POINTS, Ask, run
    from slipstream.engine.build import set_threads
    from slipstream.hardware import read
    from slipstream.ops import Kernels

    kernels = Kernels()
    threads = threads or read(with_gpus=False).threads
    set_threads(threads)
    asked = POINTS if points is None else tuple(map(point, points.split(",")))
    ask = Ask(tuple(kv.split(",")), asked, heads, kv_heads, head_dim, repeat, threads)
    found = run(ask, kernels, say=lambda line: typer.secho(line, dim=True, err=True))
    table = Table("KV", "requests", "rows", "context", "ms", "Gop/s", "of peak", "GB/s", "of bandwidth", box=None)
    for place in found:
        at = place.point
        milliseconds = f"{place.operations / place.rate / 1e6:,.2f}"
        table.add_row(place.type, str(at.requests), str(at.rows), f"{at.context:,}", milliseconds, *place.cells())
    Console(highlight=False).print(table)
    path = results.write(results.attention_record(ask, found, kernels.profile, command_line()), out)
    typer.secho(f"written: {path}", dim=True, err=True)


def point(text: str) -> "Point":
    """ "512/2048" or "1/8192x8" -> Point.

    Raises:
        InputError: it reads otherwise, or rows see more keys than there are.
    """
    from slipstream.bench.attention import Point

    found = re.fullmatch(r"(\d+)/(\d+)(?:x(\d+))?", text)
    rows, context, requests = (int(part or 1) for part in found.groups()) if found else (0, 0, 0)
    if not 1 <= rows <= context or requests < 1:
        raise InputError(f"--points {text!r}: give ROWS/CONTEXT or ROWS/CONTEXTxREQUESTS, such as 512/2048 or 1/8192x8; rows <= context")
    return Point(rows, context, requests)
