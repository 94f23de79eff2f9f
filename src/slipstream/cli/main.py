"""The command `slipstream`: which commands there are, and how every one of them ends.

Owns exit codes and the last line of an error. Commands live in the other files of this folder, which import torch and the
engine only inside their functions, so that --help and --version answer at once.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import slipstream
from slipstream.base.errors import SlipstreamError
from slipstream.cli.bench import bench
from slipstream.cli.certify import certify
from slipstream.cli.chat import chat
from slipstream.cli.doctor import doctor
from slipstream.cli.models import models
from slipstream.cli.plan import plan
from slipstream.cli.run import run
from slipstream.cli.serve import serve
from slipstream.cli.train import train
from slipstream.cli.tune import tune
from slipstream.cli.verify import verify

WIDTH = 100  # columns of a help text, where the terminal has as many
REFUSED, INTERRUPTED = 2, 130  # exit codes: our own errors like those of the command line; Ctrl-C as shells count it


class Commands(TyperGroup):
    """Commands whose expected failures are one line on stderr, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SlipstreamError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(REFUSED) from error
        except KeyboardInterrupt:
            typer.echo(err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Slipstream runs language models on this machine and says how close it comes to what the machine can do.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
app.command()(run)
app.command()(chat)
app.command()(serve)
app.command()(models)
app.command()(plan)
app.command()(doctor)
app.command()(verify)
app.command()(certify)
app.command()(tune)
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"slipstream {slipstream.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Entry point of the installed script."""
    app()


if __name__ == "__main__":
    main()
