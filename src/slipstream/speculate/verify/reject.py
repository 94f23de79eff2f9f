"""Verification by rejection (Leviathan et al. 2023, Chen et al. 2023; several candidates: Miao et al. 2024, Chen et al. 2024).

A token drawn from q is kept with probability min(1, p / q), where p is what the model says. What is then left to say is p - q, cut at
0, and the next candidate is held against that. So the distribution of the text is the model's, whatever q is.
"""

from dataclasses import dataclass

from slipstream.speculate.weighing import Dice, Weighed, left
from slipstream.step.draft import ROOT

EXACT = True


@dataclass(frozen=True)
class Options:
    """There are none."""


def walk(options: Options, weighed: Weighed, dice: Dice) -> tuple[list[int], list[int]]:
    """Walks the tree; see the package for what comes back."""
    tokens, kept, at = weighed.tree.tokens, [], ROOT
    while True:
        p, parent = weighed.target[at + 1], at
        for node, q in weighed.candidates(parent):
            token = tokens[node]
            if dice.accepts(float(p[token]) / (1.0 if q is None else float(q[token]))):
                at = node
                break
            p = left(p, q, token)
        if at == parent:
            return kept, [*(tokens[node] for node in kept), dice.choose(p)]
        kept.append(at)
