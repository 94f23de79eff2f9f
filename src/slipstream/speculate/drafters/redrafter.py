"""ReDrafter (Cheng et al. 2024): a small recurrent net beside the model's last hidden state guesses ahead, with the noise with which its
guesses are checked. Where its authors search with beams and merge what these share, its drafts grow as trees.

Owns nothing but the last state of each request: what the net remembers begins anew with every draft, so there are no keys and values,
and nothing to catch up with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.sampling.sampler import SampleRow
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext, Feed, Forward
from slipstream.speculate.drafters import eagle
from slipstream.speculate.learned import Latest, heads_of
from slipstream.speculate.unrolled import Unrolled


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: folder of a trained head (`slipstream train drafter --kind redrafter`, or published).
        nodes: tokens of a guess at most.
        depth: tokens that it guesses ahead at most, one after the other.
        width: choices of a token at most, and guesses that are read together.
        tree: whether the draft grows as a tree; else it is a chain with other choices of its first token.
    """

    path: str = ""
    nodes: int = 8
    depth: int = 4
    width: int = 3
    tree: bool = True

    def __post_init__(self):
        at_least(1, nodes=self.nodes, depth=self.depth, width=self.width)


class Redrafter(Unrolled):
    """
    Args:
        forward: the head.
        levels: hidden states that it reads.
        options: the user's.
    """

    def __init__(self, forward: Forward, levels: tuple[int, ...], options: Options):
        super().__init__("redrafter", forward, options.nodes, options.depth, options.width, options.tree)
        self.levels, self._latest = levels, Latest()
        self.watch = self._latest.watch

    def drop(self, request: int) -> None:
        self._latest.drop(request)
        self._forward.drop(request)

    def _feeds(self, contexts: Sequence[DraftContext], room: int) -> tuple[list[DraftContext], list[Feed]]:
        ready, feeds, most = [], [], min(self._forward.max_rows, self._forward.max_asks)
        for context in contexts:
            state = self._latest.get(context.request)
            if context.passes < 1 or state is None or len(ready) == most or not self._forward.reserve(context.request, 1 + room):
                continue
            ready.append(context)
            feeds.append(Feed(context.request, 0, context.tokens[-1:], self._ask(context, ()), state.rows))
        return ready, feeds

    def _start(self, context: DraftContext) -> int:
        return 1  # the last token; nothing lies before it

    def _ask(self, context: DraftContext, guess: Sequence[int]) -> SampleRow:
        return SampleRow(context.voice, len(context.tokens) + len(guess), guess)


def make(options: Options, around: Around) -> Redrafter:
    return Redrafter(around.forward, around.head.levels, options)


heads, asks = heads_of("redrafter"), eagle.asks
