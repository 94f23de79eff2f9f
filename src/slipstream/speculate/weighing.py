"""What the rules that weigh a draft stand on: its distributions, what is left of one, and dice.

Owns the words between the rules (speculate/verify) and those who run them. Knows neither models nor how a row is processed; where a
drafter's distributions come from is told in sampling/noting.py.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from slipstream.ops.reference.sampling import WORD, philox
from slipstream.sampling.distribution import Notes
from slipstream.step.draft import ROOT, DraftTree

ROLL = 1  # last word of the dice's counters; that of the noise is 0, of drafts' own noise 2


class Dice(Protocol):
    """Chance, apart from that by which a draft was drawn."""

    def accepts(self, probability: float) -> bool:
        """True with this probability; always from 1 on."""

    def choose(self, weights: Tensor) -> int:
        """An index of `weights` [vocab], not all zero, in proportion to them."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A draft, what the model says at its nodes, and what its tokens were drawn from.

    Attributes:
        tree: the draft.
        target: the model's distribution at the last trunk row, then at each node. [1 + nodes] of [vocab] fp64
        notes: what was drawn while the draft was made.
    """

    tree: DraftTree
    target: list[Tensor]
    notes: Notes

    def candidates(self, parent: int) -> list[tuple[int, Tensor | None]]:
        """The children of a node in the order in which they are to be tried, each with what it was drawn from, given that those
        before it were drawn too. None: it was not drawn, or not in this order; to take it for certain is right for any token."""
        tree = self.tree
        below = {token: node for node, (token, above) in enumerate(zip(tree.tokens, tree.parents, strict=True)) if above == parent}
        path = tuple(tree.tokens[node] for node in tree.path(parent)) if parent != ROOT else ()
        found: list[tuple[int, Tensor | None]] = []
        for token, q in self.notes.drawn.get(path, ()):
            if token not in below:
                break  # the next were drawn on condition of this one
            found.append((below.pop(token), q))
        return found + [(node, None) for node in below.values()]


def rest(p: Tensor, q: Tensor | None, token: int) -> Tensor:
    """What p [vocab] has beyond q, cut at 0; without q, beyond the certainty of `token`."""
    if q is not None:
        return (p - q).clamp_(min=0)
    out = p.clone()
    out[token] = 0
    return out


def left(p: Tensor, q: Tensor | None, token: int) -> Tensor:
    """The distribution of what is said instead of a token drawn from q that was refused; p itself where nothing is left, which is
    where p is q and none is refused."""
    out = rest(p, q, token)
    total = out.sum()
    return out / total if total > 0 else p


class KeyedDice:
    """Dice that fall in the same way whenever the same draft is checked at the same place.

    Args:
        seed, sample: key of the request's noise.
        position: of the token after the trunk. It is decided once, so no two steps share dice.
    """

    def __init__(self, seed: int, sample: int, position: int):
        self._key, self._place, self._thrown = (seed & WORD, seed >> 32 & WORD), (position, sample), 0

    def accepts(self, probability: float) -> bool:
        return self._uniform() < probability

    def choose(self, weights: Tensor) -> int:
        running = weights.cumsum(0)
        index = int((running <= self._uniform() * running[-1]).sum())
        return min(index, int(weights.nonzero()[-1]))  # rounding may lead past the last

    def _uniform(self) -> float:
        """In (0, 1), 52 bits."""
        high, low, _, _ = philox(self._key, (*self._place, self._thrown, ROLL))
        self._thrown += 1
        return ((high << 20 | low >> 12) + 0.5) * 2.0**-52
