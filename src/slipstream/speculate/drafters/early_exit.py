"""Self-speculation (LayerSkip, Elhoushi et al. 2024; Draft & Verify, Zhang et al. 2024): the model's own first layers guess ahead, through
its own norm and output layer; how far is chosen by Thompson sampling (EESD, Liu et al. 2024).

Owns after how many layers they leave, and what was learnt of how often they are right. They are drafted with like a small model, and have
a cache of their own; of weights there are no more. Good for models that were trained to be left early; the first layers of others seldom
know what comes, and are soon asked seldom.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from slipstream.base.errors import InputError
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext, Forward
from slipstream.speculate.drafters import draft_model
from slipstream.step.draft import EMPTY, ROOT, DraftTree

FADE = 0.98  # of what was seen, with every step: a text may change its manner, and what is never tried again is never learnt


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        layers: how many guess; 0 for a quarter of them.
        nodes: tokens of a guess at most.
        tree: whether the draft grows as a tree where the layers are sure; else it is a chain.
        depth, width: of a tree: tokens ahead at most; choices of every token, and guesses that are read together.
    """

    layers: int = 0
    nodes: int = 4
    tree: bool = False
    depth: int = 4
    width: int = 3

    def __post_init__(self):
        at_least(0, layers=self.layers)
        at_least(1, nodes=self.nodes, depth=self.depth, width=self.width)


@dataclass(slots=True)
class Chance:
    """How likely it is that one more guess is right: a Beta distribution, which begins flat.

    Attributes:
        right, wrong: its two numbers; what is behind a wrong guess was never seen, and does not count.
    """

    right: float = 1.0
    wrong: float = 1.0

    def see(self, right: int, wrong: int) -> None:
        """Guesses of one step: those that were right, one after the other, and then at most one wrong one."""
        self.right, self.wrong = 1 + FADE * (self.right - 1) + right, 1 + FADE * (self.wrong - 1) + wrong

    def length(self, most: int, dice: Random) -> int:
        """How far to guess, `most` at most: one token more as long as a chance, drawn from what is known, comes true. Decided before any
        token is drawn, so that what is guessed is still distributed as the layers say."""
        return next((at for at in range(most) if dice.random() >= dice.betavariate(self.right, self.wrong)), most)


class EarlyExit(draft_model.DraftModel):
    """
    Args:
        forward: the first layers.
        options: the user's.

    Attributes:
        chance: of all requests together, so that a new one begins with what others taught.
    """

    def __init__(self, forward: Forward, options: Options):
        super().__init__(forward, options, "early_exit")
        self.chance = Chance()
        self._far: dict[int, int] = {}  # request -> tokens ahead in this step
        self._open: dict[int, tuple[int, DraftTree]] = {}  # request -> tokens of its text before its last draft, and that draft

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        for context in contexts:
            self._look(context)
            dice = Random(f"{context.request} {len(context.tokens)}")  # the same run drafts the same
            self._far[context.request] = self.chance.length(context.budget, dice)
        asked = [context for context in contexts if self._far[context.request]]
        trees = {context.request: tree for context, tree in zip(asked, super().propose(asked), strict=True)}
        for context in asked:
            self._open[context.request] = len(context.tokens), trees[context.request]
        return [trees.get(context.request, EMPTY) for context in contexts]

    def drop(self, request: int) -> None:
        self._far.pop(request, None)
        self._open.pop(request, None)
        super().drop(request)

    def _length(self, context: DraftContext) -> int:
        return min(super()._length(context), self._far[context.request])

    def _look(self, context: DraftContext) -> None:
        """Learns from how the text went on behind the last draft, whatever rule kept what of it."""
        begin, tree = self._open.pop(context.request, (0, EMPTY))
        said = context.tokens[begin:]
        kept = tree.follow(said)
        guessed_on = (kept[-1] if kept else ROOT) in tree.parents
        self.chance.see(len(kept), int(guessed_on and len(kept) < len(said)))


def make(options: Options, around: Around) -> EarlyExit:
    return EarlyExit(around.forward, options)


def exit(options: Options, layers: int) -> int:
    """After how many of `layers` the model is left.

    Raises:
        InputError: it has no more than these.
    """
    chosen = options.layers or max(1, layers // 4)
    if chosen >= layers:
        raise InputError(f"speculate='early_exit': layers={chosen} must be below the {layers} that the model has")
    return chosen


asks = draft_model.asks
