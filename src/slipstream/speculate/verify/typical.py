"""Typical acceptance (Cai et al. 2024, "Medusa"): a guess is kept if the model finds it likely enough, the longest path of such.

    likely enough      p(x) > min(epsilon, delta * exp(-entropy of p))

LOSSY: the text's distribution is not the model's. What is likely enough is said as often as it is guessed. At temperature 0 it is
the text without drafts.
"""

from dataclasses import dataclass
from math import exp, log

import torch

from slipstream.base.errors import InputError
from slipstream.speculate.weighing import Dice, Weighed
from slipstream.step.draft import ROOT

EXACT = False


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        epsilon: probability from which a guess is kept whatever the others have.
        delta: the smaller, the more is kept where many tokens are likely.
    """

    epsilon: float = 0.09
    delta: float = 0.3

    def __post_init__(self):
        for name in ("epsilon", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"verify: {name}={getattr(self, name)} must be between 0 and 1")


def walk(options: Options, weighed: Weighed, dice: Dice) -> tuple[list[int], list[int]]:
    """Walks the tree; see the package for what comes back. Of two longest paths the likelier one is kept."""
    tree = weighed.tree
    least = [min(options.epsilon, options.delta * exp(-_entropy(p))) for p in weighed.target]
    reached = {ROOT: (0, 0.0)}  # node -> (depth, log-probability of its path)
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        chance = float(weighed.target[parent + 1][token])
        if parent in reached and chance > least[parent + 1]:
            depth, likely = reached[parent]
            reached[node] = depth + 1, likely + log(chance)
    at = max(reached, key=reached.__getitem__)
    kept = tree.path(at) if at != ROOT else []
    return kept, [*(tree.tokens[node] for node in kept), dice.choose(weighed.target[at + 1])]


def _entropy(p: torch.Tensor) -> float:
    """In nats."""
    return float(torch.special.entr(p).sum())
