"""Speculative Streaming (Bhendawade et al. 2024): beside its own row the model runs streams through its last layers, one per token ahead,
which begin as its state there with what tells the stream added, and guess all tokens of a draft in one call.

Owns nothing: it is drafted with as with FIRP's rows, which only begin in another way. The model itself is not tuned, as it is there, and
its streams run behind the step that they follow and not within it, so no row of a text is computed in another way because of them.
"""

from slipstream.speculate.drafter import Around
from slipstream.speculate.drafters import firp, medusa
from slipstream.speculate.learned import heads_of


class Options(firp.Options):
    """
    Attributes:
        path: folder of trained streams (`slipstream train drafter --kind streaming`).
        nodes: tokens of a guess at most.
        width: choices at a place at most.
        tree: whether the draft is the likeliest tree of all choices behind all others; see medusa.
    """


def make(options: Options, around: Around) -> medusa.Medusa:
    return medusa.Medusa(around.forward, around.head.levels, options.nodes, options.width, options.tree, "streaming")


heads = heads_of("streaming")
