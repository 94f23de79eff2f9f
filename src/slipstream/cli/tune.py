"""`slipstream tune`: finds the tables of fast settings for this machine's GPU. The work is bench/gpu/tune.py's."""

from pathlib import Path
from typing import Annotated

import typer

from slipstream.bench.arguments import given


def tune(
    seconds: Annotated[float | None, typer.Option(metavar="N", min=10, help="For measuring (default: 400).")] = None,
    results: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Decide from a folder of gpu-suite; measure nothing.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write, in place of your own below ~/.cache/slipstream.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="On the CPU, with Triton's interpreter and tiny shapes.")] = False,
) -> None:
    """Times kernels on this GPU and writes which serves how many rows, for fast settings."""
    from slipstream.bench.gpu.tune import Options
    from slipstream.bench.gpu.tune import tune as run

    run(Options(results=results, out=out, dry=dry_run, **given(seconds=seconds)), typer.echo)
