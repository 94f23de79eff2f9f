"""Self-speculation (LayerSkip, Elhoushi et al. 2024; Draft & Verify, Zhang et al. 2024): the model's own first layers guess ahead, through
its own norm and output layer.

Owns after how many layers they leave. They are drafted with like a small model, and have a cache of their own; of weights there are no
more. Good for models that were trained to be left early; the first layers of others seldom know what comes.
"""

from dataclasses import dataclass

from slipstream.base.errors import InputError
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around
from slipstream.speculate.drafters import draft_model


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


asks = draft_model.asks


def make(options: Options, around: Around) -> draft_model.DraftModel:
    return draft_model.DraftModel(around.forward, options, "early_exit")


def exit(options: Options, layers: int) -> int:
    """After how many of `layers` the model is left.

    Raises:
        InputError: it has no more than these.
    """
    chosen = options.layers or max(1, layers // 4)
    if chosen >= layers:
        raise InputError(f"speculate='early_exit': layers={chosen} must be below the {layers} that the model has")
    return chosen
