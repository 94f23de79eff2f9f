"""Reach: the probability that a node of a draft and all above it are right.

Owns what is known of the quality of guesses; it must not know what they cost. Reach is counted, not claimed: by the kind of the draft
and the depth of the node, and beside that by request. First belief is hopeful, and a few failures end the trial. Time is counted in
passes of the model, and what was seen fades with it.
"""

from dataclasses import dataclass, field

from slipstream.step import DraftTree
from slipstream.step.draft import ROOT

HOPE = 0.6  # that a guess of which nothing is known is right
FIRM = 2.0  # observations that a first belief is worth
OWN = 8.0  # observations of all requests that outweigh one of its own
FADE = 0.98  # weight of an observation against the next one
FORGET = 0.9998  # and against one a pass later
LEAST = 0.05  # reach below which a node is not looked at: predictions are not that exact


@dataclass(slots=True)
class Belief:
    """How often guesses of one sort were right. Weights fade with each observation and with time."""

    right: float = 0.0
    seen: float = 0.0
    time: int = 0

    def add(self, right: bool, time: int) -> None:
        kept = FADE * FORGET ** (time - self.time)
        self.right, self.seen, self.time = self.right * kept + right, self.seen * kept + 1, time

    def mean(self, first: float, time: int) -> float:
        kept = FORGET ** (time - self.time)
        return (self.right * kept + FIRM * first) / (self.seen * kept + FIRM)


NOTHING = Belief()
CHAIN = tuple(range(ROOT, 127))  # parents of a chain


@dataclass(slots=True)
class Sort:
    """Drafts of one kind: belief by depth, 1 first."""

    depths: list[Belief] = field(default_factory=list)

    def at(self, depth: int) -> Belief:
        while len(self.depths) < depth:
            self.depths.append(Belief())
        return self.depths[depth - 1]


class Reach:
    """
    Args:
        most: nodes of a draft at most.
    """

    def __init__(self, most: int):
        self._most = most
        self._all = Belief()
        self._sorts: dict[str, Sort] = {}
        self._own: dict[int, dict[str, Belief]] = {}
        self._means: dict[str, list[float]] = {}  # as of `_time`
        self._time = 0

    def of(self, number: int, draft: DraftTree, time: int) -> list[float]:
        """Reach of a draft's nodes by depth, the deepest of which may be left out; where several lie side by side they share it.

        Args:
            number: the request's.
            time: passes so far.
        """
        if draft.parents == CHAIN[: len(draft)]:  # as most are
            return self.chain(number, draft.kind, min(len(draft), self._most), time)
        depths = draft.depths()
        chain = self.chain(number, draft.kind, max(depths), time)
        return [chain[depth - 1] / depths.count(depth) for depth in depths if depth <= len(chain)][: self._most]

    def chain(self, number: int, kind: str, length: int, time: int) -> list[float]:
        """The same for a chain of some kind that may be `length` long; at least one node."""
        if time != self._time:
            self._time = time
            self._means.clear()
        means = self._means.get(kind)
        if means is None or len(means) < length:
            means = self._means[kind] = self._general(kind, max(length, self._most))
        own = self._own.get(number, {}).get(kind, NOTHING)
        kept = FORGET ** (time - own.time)
        right, seen = own.right * kept, own.seen * kept + OWN
        out, reach = [], 1.0
        for mean in means[:length]:
            reach *= (right + OWN * mean) / seen
            if reach < LEAST:
                break
            out.append(reach)
        return out or [0.0]  # one node is there to be tried

    def _general(self, kind: str, length: int) -> list[float]:
        """Probability that a node is right if all above it are, by depth, over all requests."""
        sort, mean = self._sorts.get(kind) or Sort(), self._all.mean(HOPE, self._time)
        out = []
        for depth in range(1, length + 1):
            mean = sort.at(depth).mean(mean, self._time)
            out.append(mean)
        return out

    def learn(self, number: int, draft: DraftTree, kept: int, time: int) -> None:
        """Takes note that the first `kept` nodes on a draft's way were right, and the next, if it has one, was not."""
        sort = self._sorts.setdefault(draft.kind, Sort())
        own = self._own.setdefault(number, {}).setdefault(draft.kind, Belief())
        for depth in range(1, min(kept + 1, max(draft.depths())) + 1):
            right = depth <= kept
            sort.at(depth).add(right, time)
            own.add(right, time)
        self._all.add(kept > 0, time)
        self._means.clear()

    def forget(self, number: int) -> None:
        """The request ended."""
        self._own.pop(number, None)
