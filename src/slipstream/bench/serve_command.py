"""`slipstream bench serve`: arguments in; table of a load test, and a result file, out."""

from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.bench import arguments
from slipstream.bench.command import command_line

if TYPE_CHECKING:
    from slipstream.bench.serving import Serving

TITLES = {
    "first_token_s": "first token",
    "between_tokens_s": "between tokens",
    "whole_s": "whole answer",
    "beside_s": "between tokens, while the prompt is read",
}
UNDONE = 1  # exit code where an answer was not what was asked for
HEAVY = 0.05  # of the time: a generator above this disturbs what it measures


def serve(
    model: arguments.ModelArgument = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="A running server instead of our own.", show_default=False)] = None,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="With --url: its key.", show_default=False)] = None,
    served_model: Annotated[str | None, typer.Option(metavar="NAME", help="With --url: which model (default: its first).")] = None,
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Clients that wait for their answers.")] = 32,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Requests a second, Poisson, instead of clients.")] = None,
    replay: Annotated[float | None, typer.Option(metavar="X", help="The trace's times, X times as fast, instead of clients.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Lengths and times from CSV or JSON lines.")] = None,
    shrink: Annotated[float, typer.Option(metavar="X", help="Divide the trace's lengths.")] = 1.0,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Prompt length without a trace.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help="Answer length without a trace.")] = 128,
    requests: Annotated[int | None, typer.Option(metavar="N", min=1, help="Of a turn (default: 2 a client, else 64).")] = None,
    arriving: Annotated[int, typer.Option(metavar="TOKENS", min=0, help="A prompt that comes half-way, in turns of its own.")] = 0,
    vocab: Annotated[int | None, typer.Option(metavar="N", min=1, help="Token ids below N (with --url: 1000).")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the table shows medians.")] = 3,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    patience: Annotated[float, typer.Option(metavar="SECONDS", help="Silence after which an answer is given up.")] = 60.0,
    limit: Annotated[float, typer.Option(metavar="SECONDS", help="For one turn.")] = 600.0,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
    max_batch: Annotated[int | None, typer.Option(metavar="N", min=1, help="Texts at once (default: the clients, or 32).")] = None,
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    kv: arguments.Kv = None,
    max_len: arguments.MaxLen = None,
    memory: arguments.Memory = None,
    speculate: arguments.Speculate = "auto",
    target_itl: arguments.TargetItl = None,
) -> None:
    """Load test of a server: our own with MODEL, beside the same engine offline, or one at --url.

    Exit code 1 if an answer failed.
    """
    options = arguments.given(
        max_batch=max_batch,
        threads=threads,
        quant=quant,
        kv=kv,
        max_len=max_len,
        memory=arguments.parse_size(memory),
        speculate=None if speculate == "auto" else speculate,
        target_itl=target_itl,
    )
    target = {"model": model, "options": options, "url": url, "api_key": api_key, "served_model": served_model}
    load = {"clients": clients, "rate": rate, "replay": replay, "requests": requests, "arriving": arriving}
    lengths = {"trace": trace, "shrink": shrink, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "vocab": vocab}

    from slipstream.bench import results, serving

    ask = serving.Ask(**target, **load, **lengths, repeat=repeat, seed=seed, patience=patience, limit=limit)
    found = serving.run(ask, say=lambda line: typer.secho(line, dim=True, err=True))
    show(found)
    command = command_line() if api_key is None else command_line().replace(api_key, "KEY")
    path = results.write(results.serving_record(found, command), out)
    typer.secho(f"written: {path}", dim=True, err=True)
    if any(turn.errors() for turn in [*found.turns, *found.arrivals]):
        raise typer.Exit(UNDONE)


def show(found: "Serving") -> None:
    """Waits by quantile, then speed beside the offline engine and the machine's limit, what the load itself cost, and what failed."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("ms", "p50", "p90", "p99", box=None)
    for name, quantiles in found.quantiles().items():
        table.add_row(TITLES[name], *(f"{seconds * 1e3:,.1f}" for seconds in quantiles.values()))
    console.print(table)
    console.print(f"{median(turn.rate for turn in found.turns):,.1f} tokens/s served{beside(found)}", soft_wrap=True)
    turns = [*found.turns, *found.arrivals]
    share = median(turn.volley.cpu / turn.volley.seconds for turn in turns)
    costs = [f"{share:.1%} of a core for the generator"]
    parts = [f"{name} {1e3 * median(turn.token_cpu(name) for turn in found.turns):.3g}" for name in sorted(found.turns[0].cpu)]
    if parts and found.offline:
        alone = f"offline {1e3 * median(one.cpu for one in found.offline):.3g}"
        costs.append(f"processor time of a token in ms: {', '.join([alone, *parts])}")
    if found.ask.open:
        costs.append(f"requests were sent up to {max(turn.lateness() for turn in turns) * 1e3:.1f} ms late")
    console.print("; ".join(costs), style="dim")
    if share > HEAVY:
        console.print("The generator took more than 5% of a core: waits are those of a busier machine.", style="red", soft_wrap=True)
    for error, count in Counter(error for turn in turns for error in turn.errors()).most_common(5):
        console.print(f"{count} requests failed: {error}", style="red", soft_wrap=True, markup=False)


def beside(found: "Serving") -> str:
    """What the same engine did offline, and what the machine could do."""
    if found.ratio is None:
        return "; the limit of another server's machine and model is not known here"
    rate, possible = median(one.rate for one in found.offline), median(one.possible for one in found.offline)
    served = median(turn.rate for turn in found.turns)
    offline = f", {found.ratio:.1%} of the same engine offline ({rate:,.1f})"
    bandwidth = f"{found.limit.bandwidth:.1f} GB/s at {found.limit.working_set / 2**20:.0f} MiB"
    return f"{offline}; {served / possible:.0%} of the limit ({possible:,.1f}; {bandwidth})"
