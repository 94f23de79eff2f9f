"""A cascade (Chen et al. 2024, the horizontal one): what is further ahead is seldom right, so it is guessed by what costs least. Behind the
guess of another drafter the text's own repetitions go on.

Owns an index of each text's n-grams, in which the end of text and guess is looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.base.errors import InputError
from slipstream.speculate import compose
from slipstream.speculate.choose import at_least
from slipstream.speculate.compose import Composed, longest, make_all, members
from slipstream.speculate.drafter import Around, DraftContext, Drafter
from slipstream.speculate.drafters.ngram import Index, go_on
from slipstream.step.draft import ROOT, DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        of: the drafter that goes before; its options in brackets, eagle(path=FOLDER;nodes=4).
        shortest, most: how many last tokens are looked up.
        more: tokens behind its guess at most.
    """

    of: str = "suffix"
    shortest: int = 2
    most: int = 4
    more: int = 4

    def __post_init__(self):
        at_least(1, shortest=self.shortest, more=self.more)
        at_least(self.shortest, most=self.most)
        if len(members(self.of)) > 1:
            raise InputError(f"speculate: of={self.of!r}: a cascade has one drafter before its look-ups")

    @property
    def nodes(self) -> int:
        return longest(self.of) + self.more


class Cascade(Composed):
    """
    Args:
        drafters: one.
        options: the user's.
    """

    def __init__(self, drafters: Sequence[Drafter], options: Options):
        super().__init__(drafters)
        self.max_draft, self._options = self.max_draft + options.more, options
        self._indices: dict[int, Index] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [self._further(*pair) for pair in zip(contexts, self._drafters[0].propose(contexts), strict=True)]

    def drop(self, request: int) -> None:
        self._indices.pop(request, None)
        super().drop(request)

    def _further(self, context: DraftContext, tree: DraftTree) -> DraftTree:
        """The tree with what followed its main path's end when that was seen before."""
        index = self._indices.setdefault(context.request, Index(self._options.shortest, self._options.most))
        index.extend(context.tokens)
        path, at = main_path(tree), ROOT
        count = min(self._options.more, context.budget - len(tree))
        end = [*context.tokens[-self._options.most :], *(tree.tokens[node] for node in path)]
        size, start = index.look_up(end)
        if count < 1 or not size:
            return tree
        tokens, parents, at = list(tree.tokens), list(tree.parents), path[-1] if path else ROOT
        for token in go_on(context.tokens, start, count):
            tokens.append(token)
            parents.append(at)
            at = len(tokens) - 1
        return DraftTree(tuple(tokens), tuple(parents), tree.kind or f"cascade {size}", tree.passes)


def main_path(tree: DraftTree) -> list[int]:
    """Nodes from below the root down, each the first child of the one before."""
    first: dict[int, int] = {}
    for node, parent in enumerate(tree.parents):
        first.setdefault(parent, node)
    path, at = [], ROOT
    while at in first:
        at = first[at]
        path.append(at)
    return path


def make(options: Options, around: Around) -> Cascade:
    return Cascade(make_all(options.of, around), options)


beside, heads, exits, asks = compose.beside, compose.heads, compose.exits, compose.asks
