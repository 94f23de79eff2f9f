"""Medusa (Cai et al. 2024): trained blocks on the model's last hidden state guess all tokens of a draft in one call, each with the noise
with which it is checked.

Owns the last state of each request, which is all that it needs: there are no keys and values, and nothing to catch up with. No guess
knows the ones before it, so they are worth less the further they are, and every choice at a place may follow every choice before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from slipstream.sampling.sampler import SampleRow
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext, Feed, Forward
from slipstream.speculate.learned import Latest, branched, crossed, heads_of
from slipstream.step.draft import DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: folder of trained heads (`slipstream train drafter --kind medusa`, or published).
        nodes: tokens of a guess at most.
        width: choices at a place at most.
        tree: whether the draft is the likeliest tree of all choices behind all others; else it is a chain of first choices, with others
            beside them as far as there are nodes left. Under a rule that weighs a draft by what it was drawn from it is such a chain.
    """

    path: str = ""
    nodes: int = 8
    width: int = 3
    tree: bool = True

    def __post_init__(self):
        at_least(1, nodes=self.nodes, width=self.width)


class Medusa:
    """
    Args:
        forward: the head.
        levels: hidden states that it reads.
        nodes, width, tree: see Options.
        kind: of its drafts.
    """

    def __init__(self, forward: Forward, levels: tuple[int, ...], nodes: int, width: int, tree: bool, kind: str = "medusa"):
        self.max_draft, self.levels, self._forward, self._width, self._kind = nodes, levels, forward, width, kind
        self._tree = tree
        self._latest = Latest()
        self.watch = self._latest.watch

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        feeds, counts = [], {context.request: 0 for context in contexts}
        for context in contexts:
            state = self._latest.get(context.request)
            if context.passes < 1 or state is None or len(feeds) == self._forward.max_rows or not self._forward.reserve(context.request, 1):
                continue
            count = counts[context.request] = min(context.budget, self.max_draft, self._forward.ahead)
            first, *further = (SampleRow(context.voice, len(context.tokens) + depth) for depth in range(count))
            feeds.append(Feed(context.request, state.start + 1, context.tokens[-1:], first, state.rows, further))
        grows = self._tree and not any(context.voice.notes is not None for context in contexts)
        wide = self._width if grows or any(context.budget > counts[context.request] for context in contexts) else 1
        drawn = iter(self._drawn(feeds, wide, grows))  # choices at one place after the other
        make = crossed if grows else branched
        return [
            make(list(islice(drawn, counts[context.request])), min(context.budget, self.max_draft), self._kind, 1) for context in contexts
        ]

    def _drawn(self, feeds: Sequence[Feed], wide: int, ranked: bool) -> Iterable[Sequence]:
        """Per place `wide` choices, or fewer, with the logarithms of their shares if they are to be `ranked`."""
        if not feeds:
            return ()
        first = self._forward.run(feeds)
        if ranked:
            return self._forward.ranked(wide)
        return zip(first, *(self._forward.again() for _ in range(1, wide)), strict=True)

    def drop(self, request: int) -> None:
        self._latest.drop(request)
        self._forward.drop(request)


def make(options: Options, around: Around) -> Medusa:
    return Medusa(around.forward, around.head.levels, options.nodes, options.width, options.tree)


heads = heads_of("medusa")
