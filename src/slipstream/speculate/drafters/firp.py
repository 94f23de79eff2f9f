"""FIRP (future representations, 2024; hidden transfer, Wu et al. 2024): trained maps make, from the model's state at one of its layers,
states there of tokens to come. These run through the layers that are left, where they see the whole text, and guess all tokens of a draft
in one call.

Owns nothing: it is drafted with as with Medusa's heads. That the rows lie in the model's own cache is the affair of worker/joining.py.
"""

from dataclasses import dataclass

from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around
from slipstream.speculate.drafters import medusa
from slipstream.speculate.learned import heads_of


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: folder of trained maps (`slipstream train drafter --kind firp`).
        nodes: tokens of a guess at most.
        width: choices at a place at most.
        tree: whether the draft is the likeliest tree of all choices behind all others; see medusa.
    """

    path: str = ""
    nodes: int = 8
    width: int = 3
    tree: bool = True

    def __post_init__(self):
        at_least(1, nodes=self.nodes, width=self.width)


def make(options: Options, around: Around) -> medusa.Medusa:
    return medusa.Medusa(around.forward, around.head.levels, options.nodes, options.width, options.tree, "firp")


heads = heads_of("firp")
