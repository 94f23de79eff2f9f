"""What drafters made of drafters have in common: how they name their parts, and that one of these at most runs a model, be it a small one,
a head, or the first layers of the model that is drafted for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from slipstream.base.errors import InputError
from slipstream.speculate.choose import Choice, choose
from slipstream.speculate.drafter import Around, Drafter, States
from slipstream.step.draft import DraftTree


class Options(Protocol):
    """`of`: names of drafters with a + between them; options of one stand in brackets behind it, with semicolons between them."""

    of: str


class Composed:
    """
    Args:
        drafters: the parts.
    """

    def __init__(self, drafters: Sequence[Drafter]):
        self.max_draft, self._drafters = max(drafter.max_draft for drafter in drafters), drafters

    def watch(self, states: Sequence[States]) -> None:
        """For the part that looks into the model; called only if there is one."""
        for drafter in self._drafters:
            if hasattr(drafter, "watch"):
                drafter.watch(states)

    def observe(self, request: int, tree: DraftTree, sampled: Sequence[int]) -> None:
        for drafter in self._drafters:
            if hasattr(drafter, "observe"):
                drafter.observe(request, tree, sampled)

    def drop(self, request: int) -> None:
        for drafter in self._drafters:
            drafter.drop(request)


def members(of: str) -> list[Choice]:
    """The drafters named in `of`: "suffix+eagle(path=FOLDER;nodes=4)".

    Raises:
        InputError: there is none, or one of them is unknown or made of drafters itself.
    """
    names = of.split("+")
    if not all(names):
        raise InputError(f"speculate: of={of!r}: names drafters with a + between them, such as suffix+ngram")
    chosen = [choose(_plain(name)) for name in names]
    for name, choice in zip(names, chosen, strict=True):
        if hasattr(choice.options, "of"):
            raise InputError(f"speculate: of={of!r}: {name!r} is made of drafters itself; name these")
    return chosen


def _plain(name: str) -> str:
    """ "ngram(nodes=4;longest=3)" -> "ngram:nodes=4,longest=3"."""
    name, bracket, inner = name.partition("(")
    return f"{name}:{inner.removesuffix(')').replace(';', ',')}" if bracket else name


def make_all(of: str, around: Around) -> list[Drafter]:
    return [choice.make(around) for choice in members(of)]


def longest(of: str) -> int:
    """Nodes of the largest draft of any of them."""
    return max(member.max_draft for member in members(of))


def beside(options: Options, source: Path | str) -> Path | str | None:
    """The model of the one drafter that runs one.

    Raises:
        InputError: more than one of them runs a model.
    """
    found = [path for choice in members(options.of) if (path := choice.beside(source)) is not None]
    runs = len(found) + sum(choice.heads(source) is not None or hasattr(choice.module, "exits") for choice in members(options.of))
    if runs > 1:
        raise InputError(f"speculate: of={options.of!r}: {runs} of them run a model; only one can have one")
    return found[0] if found else None


def heads(options: Options, source: Path | str) -> tuple[str, Path | str] | None:
    """The head of the one drafter that has one."""
    return next((found for choice in members(options.of) if (found := choice.heads(source)) is not None), None)


def exits(options: Options, layers: int) -> tuple[int, ...]:
    """After how many layers the one that guesses with these may leave the model."""
    return next((found for choice in members(options.of) if (found := choice.exits(layers))), ())


def asks(options: Options) -> int:
    """Tokens of one request that are drawn in one call."""
    return max(choice.asks for choice in members(options.of))
