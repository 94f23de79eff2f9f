"""Self-speculation (LayerSkip, Elhoushi et al. 2024; Draft & Verify, Zhang et al. 2024): the model's own first layers guess ahead, through
its own norm and output layer; after how many of them they leave, and how far, is chosen by Thompson sampling (EESD, Liu et al. 2024).

Owns these choices, and what was learnt of how often each exit is right. An exit is drafted with like a small model, and has a cache of its
own, in which it reads what it has missed when it is its turn again; of weights there are no more. Good for models that were trained to be
left early; the first layers of others seldom know what comes, and are soon asked seldom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from slipstream.base.errors import InputError
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext, Forward
from slipstream.speculate.drafters import draft_model
from slipstream.step.draft import EMPTY, ROOT, DraftTree

FADE = 0.98  # of what was seen, with every step: a text may change its manner, and what is never tried again is never learnt
IDLE = 0.998  # the same for an exit that another one was preferred to: often tried, it would cost too much


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        layers: how many guess; 0 for a quarter or half of them, whichever brings more for what it costs.
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
        self.fade(FADE)
        self.right, self.wrong = self.right + right, self.wrong + wrong

    def fade(self, kept: float) -> None:
        """What was seen counts for a part of what it did."""
        self.right, self.wrong = 1 + kept * (self.right - 1), 1 + kept * (self.wrong - 1)

    def length(self, most: int, dice: Random, first: float | None = None) -> int:
        """How far to guess, `most` at most: one token more as long as a chance, drawn from what is known, comes true; `first` is that of
        the first token, if it has been drawn. Decided before any token is drawn, so that what is guessed is still distributed as the
        layers say."""
        for at in range(most):
            if dice.random() >= (self.draw(dice) if at or first is None else first):
                return at
        return most

    def draw(self, dice: Random) -> float:
        """A chance as it may be, by what is known."""
        return dice.betavariate(self.right, self.wrong)


class Exit(draft_model.DraftModel):
    """The first layers up to one exit, drafted with like a small model.

    Attributes:
        far: request -> tokens ahead in this step.
    """

    def __init__(self, forward: Forward, options: Options):
        super().__init__(forward, options, "early_exit")
        self.far: dict[int, int] = {}

    def _length(self, context: DraftContext) -> int:
        return min(super()._length(context), self.far[context.request])


class EarlyExit:
    """
    Args:
        exits: the first layers, by their share of all.
        options: the user's.

    Attributes:
        chances: by the same shares, of all requests together, so that a new one begins with what others taught.
    """

    def __init__(self, exits: Mapping[float, Forward], options: Options):
        self.max_draft = options.nodes
        self._exits = {share: Exit(forward, options) for share, forward in exits.items()}
        self.chances = {share: Chance() for share in exits}
        self._open: dict[int, tuple[float, int, DraftTree]] = {}  # request -> exit, tokens of its text before its last draft, that draft

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        for context in contexts:
            self._look(context)
        if not contexts:
            return []
        dice = Random(f"exit {contexts[0].request} {len(contexts[0].tokens)}")  # the same run drafts the same
        drawn = {share: chance.draw(dice) for share, chance in self.chances.items()}
        share = max(drawn, key=lambda share: worth(drawn[share], share, self.max_draft))
        chosen, chance = self._exits[share], self.chances[share]
        for context in contexts:
            dice = Random(f"{context.request} {len(context.tokens)}")
            chosen.far[context.request] = chance.length(context.budget, dice, drawn[share])
        asked = [context for context in contexts if chosen.far[context.request]]
        trees = {context.request: tree for context, tree in zip(asked, chosen.propose(asked), strict=True)}
        for context in contexts:
            self._open[context.request] = share, len(context.tokens), trees.get(context.request, EMPTY)
        return [trees.get(context.request, EMPTY) for context in contexts]

    def drop(self, request: int) -> None:
        self._open.pop(request, None)
        for one in self._exits.values():
            one.far.pop(request, None)
            one.drop(request)

    def _look(self, context: DraftContext) -> None:
        """Learns from how the text went on behind the last draft, whatever rule kept what of it. Other exits only forget."""
        last, begin, tree = self._open.pop(context.request, (None, 0, EMPTY))
        said = context.tokens[begin:]
        kept = tree.follow(said)
        guessed_on = (kept[-1] if kept else ROOT) in tree.parents
        for share, chance in self.chances.items():
            if share == last:
                chance.see(len(kept), int(guessed_on and len(kept) < len(said)))
            else:
                chance.fade(IDLE)


def worth(right: float, share: float, most: int) -> float:
    """Tokens of a step for what it costs, in passes of the whole model, where each of `most` guesses at most is right with the chance
    `right`, and the next one is made with the same, at a `share` of a pass each."""
    gained = sum(right**depth for depth in range(1, most + 1))
    return (1 + gained) / (1 + share * gained)


def make(options: Options, around: Around) -> EarlyExit:
    return EarlyExit({layers / len(around.spec.layers): forward for layers, forward in around.exits.items()}, options)


def exits(options: Options, layers: int) -> tuple[int, ...]:
    """After how many of `layers` the model may be left.

    Raises:
        InputError: it has no more than these.
    """
    if options.layers >= layers or layers < 2:
        raise InputError(f"speculate='early_exit': layers={options.layers or 1} must be below the {layers} that the model has")
    return (options.layers,) if options.layers else tuple(sorted({max(1, layers // 4), layers // 2}))


asks = draft_model.asks
