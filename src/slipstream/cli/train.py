"""`slipstream train demo`: repeats the recipe of the built-in model; `slipstream train drafter`: a head that guesses ahead for a model.
Owns the arguments; the recipes are train/demo.py and train/drafter.py."""

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

train = typer.Typer(no_args_is_help=True, help="Train a small model, or a drafter for a model.", rich_markup_mode=None)


class Size(StrEnum):
    """Shapes of the recipe: the built-in model, and the small sibling that will draft for it."""

    demo = "demo"
    draft = "draft"


class Kind(StrEnum):
    """Heads that can be trained."""

    blockwise = "blockwise"
    draft = "draft"
    eagle = "eagle"
    eagle3 = "eagle3"
    firp = "firp"
    medusa = "medusa"
    mtp = "mtp"
    redrafter = "redrafter"
    streaming = "streaming"


@train.callback()
def group() -> None:
    """Train a small model, or a drafter for a model."""


@train.command()
def demo(
    data: Annotated[
        list[Path],
        typer.Option("--data", exists=True, dir_okay=False, help="A book (Gutenberg text, .txt or .txt.gz); give it once per book."),
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the checkpoint; a stopped run goes on from what is there.")],
    size: Annotated[Size, typer.Option(help="The built-in model, or its small sibling.")] = Size.demo,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on in all (default: the recipe's).")] = None,
    teacher: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Checkpoint whose distribution (and tokenizer) to learn.")
    ] = None,
    distil: Annotated[float, typer.Option(min=0, max=1, help="Weight of the teacher in the loss.")] = 0.0,
    more: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, metavar="[FILES]...", help="More books, as in --data a.txt b.txt.")
    ] = None,
) -> None:
    """Trains the built-in model again from its books; the report says how well it reads held-out chapters."""
    from slipstream.base.errors import InputError

    if (distil > 0) != (teacher is not None):
        raise InputError(f"--distil {distil} with --teacher {teacher}: the two go together; give both or neither")
    from slipstream.train.demo import Recipe, run

    recipe = Recipe(size=size.value, distil=distil, **({} if tokens is None else {"tokens": tokens}))
    report = run([*data, *(more or [])], out, recipe, teacher=teacher, say=lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(report, indent=2))


@train.command()
def drafter(
    data: Annotated[
        list[Path],
        typer.Option("--data", exists=True, dir_okay=False, help="A text (.txt or .txt.gz); give it once per file."),
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the head: --speculate KIND:path=OUT.")],
    kind: Annotated[
        Kind,
        typer.Option(help="A layer (eagle, mtp; eagle3: of 3 states), blocks, a recurrent net, joining rows (firp, streaming) or a model."),
    ] = Kind.eagle,
    model: Annotated[str | None, typer.Option(help="Model to guess for: folder, GGUF file or hub id (default: the built-in one).")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to train on in all (default: the recipe's).")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Tokens that it learns to guess ahead.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Inner size of its feed-forward layers.")] = None,
    own: Annotated[float, typer.Option(min=0, max=1, help="Share of the texts that the model goes on with by itself.")] = 0.5,
    device: Annotated[str, typer.Option(help="Where it is trained: cpu, cuda or cuda:N.")] = "cpu",
    rows: Annotated[int | None, typer.Option(min=1, help="Windows of text in a step; a GPU takes a hundred.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Ends after so long, however many tokens were read by then.")] = None,
    start: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Head of the same shape to begin with, to fit it to these texts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed on one thread gives the same head.")] = 1,
    more: Annotated[
        list[Path] | None, typer.Argument(exists=True, dir_okay=False, metavar="[FILES]...", help="More texts, as in --data a.txt b.txt.")
    ] = None,
) -> None:
    """Trains a head that guesses ahead for a model; the report says how many tokens a step it brings."""
    from slipstream.engine.build import BUILTIN
    from slipstream.train.drafter import Recipe, run

    given = {"tokens": tokens, "depth": depth, "width": width, "rows": rows, "seconds": seconds}
    recipe = Recipe(kind=kind.value, own=own, seed=seed, **{name: value for name, value in given.items() if value is not None})
    texts = [*data, *(more or [])]
    say = partial(typer.echo, err=True)
    report = run(model or BUILTIN / "demo", texts, out, recipe, device=device, start=start, say=say)
    typer.echo(json.dumps(report, indent=2))
