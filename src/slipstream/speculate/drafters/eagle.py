"""EAGLE (Li et al. 2024): a trained layer on the model's hidden states guesses ahead, with the noise with which its guesses are checked.

Owns what the head has read of each request. It reads a token together with the state of the position before it, so everything up to the
last token can be read at once; then it goes on from its own output, one token of all requests a call:

    text     a  b  c  d             states of  a b c  (d is said, but was not computed yet)
    reads       b  c  d  x  y       with       a b c, then what came out for d, for x

States of what was found in the prefix cache never come, and of what waited too long they are dropped: the head's text begins behind
them. It counts its places from there, which is the same to it, since rotary positions only tell distances. What it guessed and was not
kept is read over with true tokens and states; so is what was kept, because true states are better than its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slipstream.sampling.sampler import SampleRow
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import WINDOW, Around, DraftContext, Feed, Forward, States
from slipstream.speculate.learned import heads_of
from slipstream.speculate.unrolled import Unrolled


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: folder of a trained head (`slipstream train drafter`, or published: EAGLE, EAGLE-3); the built-in model has one of its own.
        nodes: tokens of a guess at most, second choices included.
        depth: tokens that it guesses ahead at most, one after the other.
        width: choices of the first token at most; others than the best are made as far as there are nodes left. Of a tree: choices of
            every token, and guesses that are read together.
        tree: whether the draft grows as a tree where the head is sure (EAGLE-2); else it is a chain.
    """

    path: str = ""
    nodes: int = 8
    depth: int = 6
    width: int = 3
    tree: bool = False

    def __post_init__(self):
        at_least(1, nodes=self.nodes, depth=self.depth, width=self.width)


@dataclass(slots=True)
class Reading:
    """What the head has read of one request, and may read.

    Attributes:
        first: position of the first token that it reads.
        read: tokens read with true states.
        waiting: states for those after them, in order; each has rows [tokens, width].
        count: rows that wait.
    """

    first: int
    read: int = 0
    waiting: list[Tensor] = field(default_factory=list)
    count: int = 0

    @property
    def next(self) -> int:
        """Position of the state that is to come next."""
        return self.first - 1 + self.read + self.count

    def add(self, rows: Tensor) -> None:
        """Takes in more states. If too many wait, all but the last WINDOW are dropped, and the text begins anew behind them."""
        self.waiting.append(rows)
        self.count += len(rows)
        if self.count > 2 * WINDOW:  # seldom, since it copies them
            self.first, self.read = self.first + self.read + self.count - WINDOW, 0
            self.waiting, self.count = [torch.cat(self.waiting)[-WINDOW:].clone()], WINDOW

    def take(self, most: int) -> Tensor:
        """The first `most` states that wait, or all; they count as read."""
        rows = self.waiting[0] if len(self.waiting) == 1 else torch.cat(self.waiting)
        taken, left = rows[:most], rows[most:]
        self.read, self.count = self.read + len(taken), len(left)
        self.waiting = [left] if len(left) else []
        return taken


class Eagle(Unrolled):
    """
    Args:
        forward: the head.
        levels: hidden states that it reads.
        options: the user's.
        kind: of its drafts.
    """

    def __init__(self, forward: Forward, levels: tuple[int, ...], options: Options, kind: str = "eagle"):
        super().__init__(kind, forward, options.nodes, options.depth, options.width, options.tree)
        self.levels, self.depth = levels, self._depth
        chain = not options.tree and (options.width == 1 or options.nodes <= options.depth)  # rounds know no second choices
        self._again = chain and getattr(forward, "rounds", False)
        self.beside = forward if self._again else None
        self._read: dict[int, Reading] = {}

    def watch(self, states: Sequence[States]) -> None:
        for one in states:
            reading = self._read.get(one.request)
            if reading is None or reading.next != one.start:
                reading = self._read[one.request] = Reading(one.start + 1)
            reading.add(one.rows)

    def begins(self, request: int, more: int) -> int | None:
        reading = self._read.get(request)
        if reading is None or reading.count or not self._forward.reserve(request, reading.read + more):
            return None
        return reading.read

    def went(self, request: int, tokens: int) -> None:
        self._read[request].read += tokens

    def drop(self, request: int) -> None:
        self._read.pop(request, None)
        self._forward.drop(request)

    def _feeds(self, contexts: Sequence[DraftContext], room: int) -> tuple[list[DraftContext], list[Feed]]:
        rows, ready, feeds = self._forward.max_rows, [], []
        for context in contexts:
            reading = self._read.get(context.request)
            if context.passes < 1 or rows < 1 or reading is None or not reading.count:
                continue
            if not self._forward.reserve(context.request, reading.read + reading.count + room):
                continue
            place, states = reading.read, reading.take(rows)
            begin = reading.first + place
            rows -= len(states)
            ask = None
            if not reading.count and len(ready) < self._forward.max_asks:
                ask = self._ask(context, ())
                ready.append(context)
            feeds.append(Feed(context.request, place, context.tokens[begin : begin + len(states)], ask, states))
        return ready, feeds

    def _start(self, context: DraftContext) -> int:
        return self._read[context.request].read

    def _ask(self, context: DraftContext, guess: Sequence[int]) -> SampleRow:
        return SampleRow(context.voice, len(context.tokens) + len(guess), guess)


def make(options: Options, around: Around) -> Eagle:
    return Eagle(around.forward, around.head.levels, options)


heads = heads_of("eagle")


def asks(options: Options) -> int:
    """Tokens of one request that are drawn in one call."""
    return options.width if options.tree else 1
