"""Several drafters, one after the other: the first that has a guess for a request makes it.

Owns the order. `auto` is the same with an opinion: it passes over short repetitions where a model may be asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.speculate.compose import beside_of, make_all, members
from slipstream.speculate.drafter import Around, DraftContext, Drafter
from slipstream.step.draft import EMPTY, DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        of: names of drafters with a + between them, the first to be asked first; each with its defaults, one model at most.
    """

    of: str = "suffix+ngram"

    def __post_init__(self):
        members(self.of)

    @property
    def nodes(self) -> int:
        return max(member.max_draft for member in members(self.of))


class First:
    def __init__(self, drafters: Sequence[Drafter]):
        self.max_draft, self._drafters = max(drafter.max_draft for drafter in drafters), drafters

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        trees = [EMPTY] * len(contexts)
        for drafter in self._drafters:
            open_ = [at for at, tree in enumerate(trees) if not tree.tokens]
            if not open_:
                break
            for at, tree in zip(open_, drafter.propose([contexts[at] for at in open_]), strict=True):
                trees[at] = tree
        return trees

    def drop(self, request: int) -> None:
        for drafter in self._drafters:
            drafter.drop(request)


def make(options: Options, around: Around) -> First:
    return First(make_all(options.of, around))


def beside(options: Options, source: Path | str) -> Path | str | None:
    """The model of the one drafter that runs one."""
    return beside_of(options.of, source)
