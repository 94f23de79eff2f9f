"""`python -m slipstream.bench`: the same as `slipstream bench`; and `gpu-suite`, which needs neither typer nor rich."""

import sys

from slipstream.base.errors import SlipstreamError
from slipstream.bench.gpu import command as gpu

if __name__ == "__main__":
    if sys.argv[1:2] == [gpu.NAME]:
        try:
            sys.exit(gpu.main(sys.argv[2:]))
        except SlipstreamError as error:
            sys.exit(f"error: {error}")

    import typer

    from slipstream.bench.group import bench

    try:
        bench()
    except SlipstreamError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
