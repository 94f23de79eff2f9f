"""`slipstream bench speculation`: arguments in; table of what drafters bring, and a result file, out."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.bench import arguments
from slipstream.bench.command import command_line, numbers

if TYPE_CHECKING:
    from slipstream.bench.speculation import Score

DRAFTERS = ("ngram", "suffix", "draft_model", "eagle", "auto", "wrong")
DEPTHS = 4


def speculation(
    model: arguments.Model = None,
    drafter: Annotated[
        list[str] | None, typer.Option(metavar="DRAFTER", help="Repeatable; `wrong` guesses at random (default: all that need no path).")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,N,...", help="Batch sizes.")] = "1,4,16",
    new_tokens: Annotated[int, typer.Option(min=1, help="New tokens per request.")] = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Turns; the table shows medians.")] = 3,
    text: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A text to continue, UTF-8; repeatable.")] = None,
    books: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Without --text: the built-in model's books, whose held-out chapters serve.")
    ] = None,
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the result file.")] = Path("benchmarks/results"),
) -> None:
    """Compares drafters with no speculation, at T=0 and 0.8, on unknown text and on text that repeats itself."""
    batches = numbers("--batch", batch)

    from slipstream.bench import quality, results
    from slipstream.bench import speculation as case

    texts = [quality.plain(path) for path in text] if text else quality.held_out(books)
    options = arguments.given(threads=threads, quant=quant)
    ask = case.Ask(model, texts, drafter or DRAFTERS, batches, new_tokens, repeat, options=options)
    plain, scores, limit = case.run(ask, say=lambda line: typer.secho(line, dim=True, err=True))
    show(scores)
    path = results.write(results.speculation_record(ask, plain, scores, limit, command_line()), out)
    typer.secho(f"written: {path}", dim=True, err=True)
    plain.close()


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
