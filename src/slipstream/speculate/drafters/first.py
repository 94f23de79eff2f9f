"""Several drafters, one after the other: the first that has a guess for a request makes it.

Owns the order. `auto` is the same with an opinion: it passes over short repetitions where a model may be asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.speculate import compose
from slipstream.speculate.compose import Composed, longest, make_all, members
from slipstream.speculate.drafter import Around, DraftContext
from slipstream.step.draft import EMPTY, DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        of: names of drafters with a + between them, the first to be asked first; of which one may run a model; options of one in brackets:
            suffix+eagle(path=FOLDER;nodes=4).
    """

    of: str = "suffix+ngram"

    def __post_init__(self):
        members(self.of)

    @property
    def nodes(self) -> int:
        return longest(self.of)


class First(Composed):
    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        trees = [EMPTY] * len(contexts)
        for drafter in self._drafters:
            open_ = [at for at, tree in enumerate(trees) if not tree.tokens]
            if not open_:
                break
            for at, tree in zip(open_, drafter.propose([contexts[at] for at in open_]), strict=True):
                trees[at] = tree
        return trees


def make(options: Options, around: Around) -> First:
    return First(make_all(options.of, around))


beside, heads, exits, asks = compose.beside, compose.heads, compose.exits, compose.asks
