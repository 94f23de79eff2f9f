"""What drafters made of drafters have in common: how they name their parts, and that one of these at most runs a model."""

from pathlib import Path

from slipstream.base.errors import InputError
from slipstream.speculate.choose import Choice, choose
from slipstream.speculate.drafter import Around, Drafter


def members(of: str) -> list[Choice]:
    """The drafters named in `of`, a + between them.

    Raises:
        InputError: there is none, or one of them is unknown or made of drafters itself.
    """
    names = of.split("+")
    if not all(names):
        raise InputError(f"speculate: of={of!r}: names drafters with a + between them, such as suffix+ngram")
    chosen = [choose(name) for name in names]
    for name, choice in zip(names, chosen, strict=True):
        if hasattr(choice.options, "of"):
            raise InputError(f"speculate: of={of!r}: {name!r} is made of drafters itself; name these")
    return chosen


def make_all(of: str, around: Around) -> list[Drafter]:
    return [choice.make(around) for choice in members(of)]


def beside_of(of: str, source: Path | str) -> Path | str | None:
    """The model that one of the drafters runs, if any.

    Raises:
        InputError: more than one of them runs a model.
    """
    found = [path for choice in members(of) if (path := choice.beside(source)) is not None]
    if len(found) > 1:
        raise InputError(f"speculate: of={of!r}: {len(found)} of them run a model; only one can have one")
    return found[0] if found else None
