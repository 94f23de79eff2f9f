"""Multi-token prediction (DeepSeek-AI 2024): a layer that was trained with the model, and comes in its checkpoint, guesses ahead.

Owns where that layer lies. It is drafted with as with EAGLE's; what it goes on from is what its output layer reads.
"""

from dataclasses import dataclass
from pathlib import Path

from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around
from slipstream.speculate.drafters import eagle
from slipstream.speculate.learned import brought


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: folder of a trained head (`slipstream train drafter --kind mtp`); else the model's own checkpoint has one.
        nodes: tokens of a guess at most, second choices included.
        depth: tokens that it guesses ahead at most, one after the other; a layer trained to guess one is used again.
        width: choices of the first token at most, of a tree of every token.
        tree: whether the draft grows as a tree where the layer is sure (EAGLE-2); else it is a chain.
    """

    path: str = ""
    nodes: int = 4
    depth: int = 3
    width: int = 2
    tree: bool = False

    def __post_init__(self):
        at_least(1, nodes=self.nodes, depth=self.depth, width=self.width)


asks = eagle.asks


def make(options: Options, around: Around) -> eagle.Eagle:
    return eagle.Eagle(around.forward, around.head.levels, options, "mtp")


def heads(options: Options, source: Path | str) -> tuple[str, Path | str]:
    """The layer in the model's own checkpoint, unless another one was named, or lies beside it."""
    return "mtp", options.path or brought("mtp", source) or source
