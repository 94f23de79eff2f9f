"""Several drafters, of which each request gets the guess that is likely to go furthest.

Owns how far guesses of each kind have been right, those that were not chosen included: what is said next tells of all of them. So
every drafter is asked in every step, and a dear one is better put behind others (`first`, `auto`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.speculate import compose
from slipstream.speculate.compose import Composed, longest, make_all, members
from slipstream.speculate.drafter import Around, DraftContext, Drafter
from slipstream.step.draft import DraftTree

HOPE = 1.0  # tokens that a kind of guess is expected to be right for before it was seen
FADE = 0.95  # weight of a guess against the next of its kind


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        of: names of drafters with a + between them, of which one may run a model; options of one in brackets.
    """

    of: str = "suffix+ngram"

    def __post_init__(self):
        members(self.of)

    @property
    def nodes(self) -> int:
        return longest(self.of)


@dataclass(slots=True)
class Guesses:
    """What was guessed for one request: when its text was `length` tokens long."""

    length: int
    trees: list[DraftTree]


class Best(Composed):
    def __init__(self, drafters: Sequence[Drafter]):
        super().__init__(drafters)
        self._reach: dict[str, float] = {}  # kind -> tokens for which its guesses are right
        self._last: dict[int, Guesses] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        for context in contexts:
            self._learn(context)
        several = zip(*(drafter.propose(contexts) for drafter in self._drafters), strict=True)
        chosen = []
        for context, trees in zip(contexts, several, strict=True):
            self._last[context.request] = Guesses(len(context.tokens), [tree for tree in trees if tree.tokens])
            chosen.append(max(trees, key=self._expected))
        return chosen

    def drop(self, request: int) -> None:
        self._last.pop(request, None)
        super().drop(request)

    def _expected(self, tree: DraftTree) -> float:
        """Tokens that come of it, most likely; the first of equal ones is chosen."""
        return min(self._reach.get(tree.kind, HOPE), max(tree.depths())) if tree.tokens else 0.0

    def _learn(self, context: DraftContext) -> None:
        last = self._last.pop(context.request, None)
        if last is None:
            return
        said = list(context.tokens[last.length :])
        for tree in last.trees:
            right, before = _right(tree, said), self._reach.get(tree.kind, HOPE)
            seen = right if right < len(said) else max(right, before)  # how much further it would have gone is not known
            self._reach[tree.kind] = FADE * before + (1 - FADE) * seen


def _right(tree: DraftTree, said: list[int]) -> int:
    """How many tokens of what was said are a path of the tree."""
    paths = ([tree.tokens[above] for above in tree.path(node)] for node in range(len(tree)))
    return max((len(path) for path in paths if path == said[: len(path)]), default=0)


def make(options: Options, around: Around) -> Best:
    return Best(make_all(options.of, around))


beside, heads, exits, asks = compose.beside, compose.heads, compose.exits, compose.asks
