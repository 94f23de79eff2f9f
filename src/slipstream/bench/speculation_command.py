"""`slipstream bench speculation`: arguments in; table of what drafters bring, and a result file or a trace, out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.errors import InputError
from slipstream.bench import arguments
from slipstream.bench.command import command_line, numbers

if TYPE_CHECKING:
    from slipstream.bench.replay import Ask as Replayed
    from slipstream.bench.replay import Score as Setting
    from slipstream.bench.speculation import Score
    from slipstream.engine.limit import Limit

DRAFTERS = ("ngram", "suffix", "draft_model", "eagle", "auto", "wrong")
BATCHES, NEW_TOKENS = "1,4,16", 128
REPLAYED, FEW = "1,4,16,32", 32  # the same of a replay, where a token takes longer
DEPTHS = 4
BLOCKS = {"int4": "Q4_0", "q8_0": "Q8_0"}  # formats in which the weights of a shape are kept as a file, see `bench peers`


def speculation(
    model: arguments.Model = None,
    drafter: Annotated[
        list[str] | None, typer.Option(metavar="DRAFTER", help="Repeatable; `wrong` guesses at random (default: all that need no path).")
    ] = None,
    batch: Annotated[str | None, typer.Option(metavar="N,N,...", help=f"Batch sizes (default: {BATCHES}).", show_default=False)] = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"New tokens per request (default: {NEW_TOKENS}).", show_default=False)
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the table shows medians.")] = 3,
    text: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A text to continue, UTF-8; repeatable.")] = None,
    books: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Without --text: the built-in model's books, whose held-out chapters serve.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: note at every place of unknown text how far guesses are right.")
    ] = None,
    replay: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead: guess as well as was noted, on a model of --shape.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="SHAPE", help="For --replay: llama-3.2-1b, tiny..., random weights.")] = None,
    guesses: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="For --replay: fixed draft lengths (default: 0,1,2,3,4,6,8).", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="For --replay: of the noted requests (default: 0.8).", show_default=False)
    ] = None,
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
) -> None:
    """Compares drafters with no speculation, at T=0 and 0.8, on unknown text and on text that repeats itself."""
    if record is not None and replay is not None:
        raise InputError("--record, --replay: one after the other; give one of them")
    if (shape is None) != (replay is None) or (replay is None and not (temperature is guesses is None)):
        raise InputError("--replay FILE: needs --shape SHAPE, and --shape, --guesses and --temperature are for it alone")
    say = partial(typer.secho, dim=True, err=True)
    options = arguments.given(threads=threads, quant=quant)
    if replay is not None:
        grid = {"batches": numbers("--batch", batch or REPLAYED), "new_tokens": new_tokens or FEW, "repeat": repeat}
        grid |= arguments.given(temperature=temperature, depths=numbers("--guesses", guesses) or None)
        _replay(replay, shape, drafter, grid, options, out, say)
        return

    from slipstream.bench import acceptance, quality, results
    from slipstream.bench import speculation as case

    texts = [quality.plain(path) for path in text] if text else quality.held_out(books)
    if record is not None:
        sizes = numbers("--batch", batch) or (acceptance.REQUESTS,)
        if len(sizes) > 1 or len(drafter or ()) > 1:
            raise InputError(f"--record {record}: takes one --drafter and one --batch, the number of requests")
        ask = case.Ask(model, texts, drafter or (acceptance.DEEP,), sizes, new_tokens or NEW_TOKENS, repeat, options=options)
        acceptance.write(acceptance.record(ask, say), record)
        say(f"written: {record}")
        return
    sizes, count = numbers("--batch", batch or BATCHES), new_tokens or NEW_TOKENS
    ask = case.Ask(model, texts, drafter or DRAFTERS, sizes, count, repeat, options=options)
    plain, scores, limit = case.run(ask, say)
    show(scores)
    say(f"written: {results.write(results.speculation_record(ask, plain, scores, limit, command_line()), out)}")
    plain.close()


def _replay(
    path: Path,
    shape: str,
    drafter: list[str] | None,
    grid: dict[str, Any],
    options: dict[str, Any],
    out: Path,
    say: Callable[[str], None],
) -> None:
    """The same for a recorded trace; `grid` and `options` as in replay.Ask."""
    if len(drafter or ()) > 1:
        raise InputError("--replay: takes one --drafter, whose cost is paid")

    from slipstream.bench import acceptance, made_weights, results
    from slipstream.bench import replay as case

    trace, quant = acceptance.read(path), options.get("quant", "bf16")
    if quant in BLOCKS:
        model = str(made_weights.gguf_file(shape, BLOCKS[options.pop("quant")], made_weights.folder(), say))
    else:
        model = f"dummy:{shape}"
    cost = drafter[0] if drafter else case.costing(trace, quant)
    ask = case.Ask(model, trace, cost, **grid, options=options)
    llm, scores, limit = case.run(ask, say)
    show_replay(ask, scores, limit)
    say(f"written: {results.write(results.replay_record(ask, llm, scores, limit, command_line()), out)}")
    llm.close()


def show(scores: "list[Score]") -> None:
    """One line per drafter and place."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    counted = ("tokens/step", "where drafted", "right by depth", "repeats")
    table = Table("drafter", "text", "T", "batch", *counted, "tokens/s", "of limit", "speed-up", box=None)
    for score in scores:
        place, tally = score.place, score.tally
        right = " ".join(f"{share:.0%}" for share in tally.by_depth(DEPTHS)) if tally.drafts else "-"
        table.add_row(
            *(score.drafter, place.text, f"{place.temperature:g}", str(place.batch)),
            *(f"{tally.per_step:.2f}", f"{tally.per_draft:.2f}" if tally.drafts else "-", right, f"{score.repetition:.0%}"),
            *(f"{median(rate for rate, _ in score.rates):,.0f}", f"{median(score.share):.0%}", f"x{score.speedup:.2f}"),
        )
    console.print(table)
    console.print(
        "tokens/step: per request and step, 1 without drafts; `where drafted` counts the model's own token too; repeats: tokens that end a "
        "stretch of four seen before",
        style="dim",
    )


def show_replay(ask: "Replayed", scores: "list[Setting]", limit: "Limit") -> None:
    """One line per batch and setting, then what the limit was."""
    from rich.console import Console
    from rich.table import Table

    from slipstream.bench.acceptance import per_step

    console = Console(highlight=False)
    recorded, whole = ask.trace.at(ask.temperature), "as recorded"
    table = Table("batch", "guesses", "tokens/step", whole, "guessing ms", "checking ms", "at least ms", "tokens/s", "speed-up", box=None)
    for score in scores:
        times = (f"{1e3 * median(values):,.1f}" if values else "-" for values in (score.drafting, score.checks, score.least))
        expected = "" if score.depth is None else f"{per_step(recorded, score.depth):.2f}"
        table.add_row(
            *(str(score.batch), score.name, f"{score.per_step:.2f}", expected, *times),
            *(f"{median(score.rates):,.1f}", f"x{score.speedup:.2f}"),
        )
    console.print(table)
    peaks = ", ".join(f"{peak:,.0f} Gop/s {kind}" for kind, peak in limit.peaks.items())
    console.print(
        f"{ask.trace.drafter} for {ask.trace.model} at T={ask.temperature:g}; guesses cost what {ask.drafter} costs. "
        f"as recorded: tokens per step of all recorded requests; at least: of a step that checks at {limit.bandwidth:.1f} GB/s and {peaks}",
        style="dim",
    )
