"""`python -m slipstream.bench gpu-suite`: arguments in, table out. argparse alone, for machines without typer and rich."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from slipstream.base import registry
from slipstream.bench.gpu.ask import CASES
from slipstream.bench.gpu.runner import BUDGET, Options, run

NAME = "gpu-suite"


def main(arguments: Sequence[str]) -> int:
    """Runs the suite; returns the exit status: 0 if the table was written, whatever it says.

    Raises:
        InputError: an unknown case or a folder that cannot be made.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m slipstream.bench {NAME}", description="Measures everything worth knowing about this GPU, within a time."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results; what is done there is not run again")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"cases to run: {', '.join(registry.names(CASES))}")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="budget for everything (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with Triton's interpreter and tiny shapes")
    parser.add_argument("--published", nargs="+", default=[], metavar="FILE", help="published tables (csv.gz) or folders of such")
    parser.add_argument("--commit", default=os.environ.get("SLIPSTREAM_COMMIT"), help="for the record, where there is no repository")
    given = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "slipstream.bench", NAME, *arguments])
    options = Options(
        given.out, tuple(given.only), given.seconds, given.dry_run, tuple(given.published), command=command, commit=given.commit
    )
    table = run(options, say=lambda text: print(text, flush=True))
    text = table.read_text(encoding="utf-8")
    begin, end = text.find("## What it says"), text.find("\n## ", text.find("## What it says") + 5)
    print(text[begin:end])  # last, because a lent machine's reply keeps the end of the output
    print(f"written: {table}")
    return 0
