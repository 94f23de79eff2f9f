"""`python -m slipstream.bench`: the same as `slipstream bench`."""

import sys

import typer

from slipstream.base.errors import SlipstreamError
from slipstream.bench.command import bench

if __name__ == "__main__":
    try:
        typer.run(bench)
    except SlipstreamError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
