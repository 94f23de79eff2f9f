"""What drafters have in common that run a model of their own, a small one or a head: it reads what is new, then goes on from its own
guesses, as a chain with other choices beside it or as a tree.

Owns the order of these, and how long a draft is. What the model has read of a request, and how it catches up, is the drafter's affair.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from slipstream.sampling.sampler import SampleRow
from slipstream.speculate.drafter import DraftContext, Feed, Forward
from slipstream.speculate.growing import Growing, grow
from slipstream.speculate.learned import branched
from slipstream.step.draft import EMPTY, DraftTree


class Unrolled(ABC):
    """
    Args:
        kind: of its drafts.
        forward: the model.
        nodes: tokens of a guess at most.
        depth: tokens ahead at most.
        width: choices at a place at most: of a chain others than the first are made of its first token, as far as there are nodes left.
        tree: whether drafts are trees that grow where the model is sure. Under a rule that weighs a draft by what it was drawn from they
            are chains all the same: what a tree keeps depends on what was drawn.
    """

    def __init__(self, kind: str, forward: Forward, nodes: int, depth: int, width: int, tree: bool):
        self.max_draft, self._forward, self._kind = nodes, forward, kind
        self._depth, self._width, self._tree = min(depth, nodes), width, tree
        self._again = False

    @abstractmethod
    def _feeds(self, contexts: Sequence[DraftContext], room: int) -> tuple[list[DraftContext], list[Feed]]:
        """What is new, as much as one call can take, `room` places beyond that reserved; and those requests whose feeds ask for a first
        guess, since all of them is read then, in order."""

    @abstractmethod
    def _start(self, context: DraftContext) -> int:
        """Place of the first guess: tokens that the model has read."""

    @abstractmethod
    def _ask(self, context: DraftContext, guess: Sequence[int]) -> SampleRow:
        """What is to be drawn behind a guess."""

    def _guessed(self, context: DraftContext, read: list[int]) -> None:
        """Guesses that were read, at the places from `_start` on. A model that reads everything anew need not know."""
        return None

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        longest = max((self._length(context) for context in contexts), default=0)
        grows = self._tree and not any(context.voice.notes is not None for context in contexts)
        ready, feeds = self._feeds(contexts, max(0, longest - 1) * (self._width if grows else 1))
        drawn = self._forward.run(feeds) if feeds else []
        if not ready:
            return [EMPTY] * len(contexts)
        made = self._grow(ready) if grows else self._go_on(ready, drawn, longest)
        trees = {context.request: tree for context, tree in zip(ready, made, strict=True)}
        return [trees.get(context.request, EMPTY) for context in contexts]

    def _length(self, context: DraftContext) -> int:
        """Tokens ahead."""
        return min(context.budget, context.passes, self._depth)

    def _go_on(self, ready: Sequence[DraftContext], drawn: list[int], longest: int) -> list[DraftTree]:
        wide = self._width if any(context.budget > self._length(context) for context in ready) else 1
        ranks = [drawn, *(self._forward.again() for _ in range(1, wide))]
        chosen = [[list(choices)] for choices in zip(*ranks, strict=True)]  # per request and depth: first choice, others
        if longest > 1:
            firsts = [(context, own[0][:1]) for context, own in zip(ready, chosen, strict=True)]
            feeds = [Feed(context.request, self._start(context), first, self._ask(context, first)) for context, first in firsts]
            for context, own, further in zip(ready, chosen, self._forward.chain(feeds, longest - 1), strict=True):
                own += [[token] for token in further[: self._length(context) - 1]]
        trees = []
        for context, own in zip(ready, chosen, strict=True):
            self._guessed(context, [choices[0] for choices in own[:-1]])  # the last guess was not read
            tree = branched(own, min(context.budget, self.max_draft), self._kind, len(own))
            trees.append(replace(tree, again=True) if self._again else tree)
        return trees

    def _grow(self, ready: Sequence[DraftContext]) -> list[DraftTree]:
        def growing(context: DraftContext) -> Growing:
            nodes = min(context.budget, self.max_draft)
            return Growing(context.request, self._start(context), nodes, self._length(context), lambda guess: self._ask(context, guess))

        made = [growing(context) for context in ready]
        trees = grow(self._forward, made, self._width, self._kind)
        for context, one in zip(ready, made, strict=True):
            self._guessed(context, one.first_read())
        return trees
