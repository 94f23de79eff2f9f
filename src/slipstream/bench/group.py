"""`slipstream bench`: which subcommands there are. Every file of cases/ is one, found by its name; then those with grids of their own."""

from typing import Any

import typer
from typer.core import TyperGroup

from slipstream.base import registry
from slipstream.bench import cases
from slipstream.bench.attention_command import attention
from slipstream.bench.command import measure
from slipstream.bench.layers_command import layers
from slipstream.bench.peers_command import peers
from slipstream.bench.quality_command import quality
from slipstream.bench.serve_command import serve
from slipstream.bench.speculation_command import speculation


class Cases(TyperGroup):
    """Subcommands; one that is not there is refused like every other unknown name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            raise registry.unknown("bench case", args[0], self.commands)
        return super().resolve_command(ctx, args)


bench = typer.Typer(cls=Cases, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@bench.callback()
def group() -> None:
    """Measures speed beside the machine's limit, probed in the same run."""


for case in registry.names(cases.__name__):
    bench.command(case)(measure)
bench.command("attention")(attention)
bench.command("layers")(layers)
bench.command("peers")(peers)
bench.command("quality")(quality)
bench.command("serve")(serve)
bench.command("speculation")(speculation)
