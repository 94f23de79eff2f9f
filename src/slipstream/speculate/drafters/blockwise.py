"""Blockwise parallel decoding (Stern et al. 2018; multi-token prediction heads, Gloeckle et al. 2024): trained blocks on the model's last
hidden state guess the tokens behind its next one, all in one call.

Owns nothing: it is drafted with as with Medusa's heads, but the blocks do not know the last token, and there is one choice at a place.
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
        path: folder of trained heads (`slipstream train drafter --kind blockwise`).
        nodes: tokens of a guess at most.
    """

    path: str = ""
    nodes: int = 4

    def __post_init__(self):
        at_least(1, nodes=self.nodes)


def make(options: Options, around: Around) -> medusa.Medusa:
    return medusa.Medusa(around.forward, around.head.levels, options.nodes, 1, False, "blockwise")


heads = heads_of("blockwise")
