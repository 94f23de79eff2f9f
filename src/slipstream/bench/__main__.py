"""`python -m slipstream.bench`: the same as `slipstream bench`; and `gpu-suite` and `tune`, which need neither typer nor rich."""

import sys

from slipstream.base.errors import SlipstreamError
from slipstream.bench.gpu import command, tune

WITHOUT_TYPER = {command.NAME: command.main, tune.NAME: tune.main}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in WITHOUT_TYPER:
        try:
            sys.exit(WITHOUT_TYPER[sys.argv[1]](sys.argv[2:]))
        except SlipstreamError as error:
            sys.exit(f"error: {error}")

    import typer

    from slipstream.bench.group import bench

    try:
        bench()
    except SlipstreamError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
