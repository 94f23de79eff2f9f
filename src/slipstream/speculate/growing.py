"""Trees that grow where a model is sure (EAGLE-2, Li et al. 2024): the likeliest guesses of a depth are read together, and of all that was
guessed the likeliest stay.

Owns which guesses are read and which stay. A guess is as likely as the product of the shares on the way to it, so that a tree that is cut
behind any of its nodes is the best of that size. Knows neither heads nor small models: whoever has read a request says where its guesses
begin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slipstream.sampling.sampler import SampleRow
from slipstream.speculate.drafter import Branch, Forward
from slipstream.step.draft import EMPTY, ROOT, DraftTree


@dataclass(slots=True)
class Growing:
    """The tree of one request.

    Attributes:
        request: the request's number.
        start: place of the first guess: tokens that its model has read.
        nodes, depth: of the tree at most.
        ask: makes what is to be drawn behind some guesses.
    """

    request: int
    start: int
    nodes: int
    depth: int
    ask: Callable[[Sequence[int]], SampleRow]
    _tokens: list[int] = field(default_factory=list)
    _parents: list[int] = field(default_factory=list)
    _scores: list[float] = field(default_factory=list)  # logarithms; never above that of the parent
    _places: dict[int, int] = field(default_factory=dict)  # node that was read -> behind `start`
    _last: range = range(0)  # nodes of the deepest layer

    def add(self, parent: int, choices: Sequence[tuple[int, float]]) -> None:
        """Choices for what follows a node, with the logarithms of their shares."""
        above = 0.0 if parent == ROOT else self._scores[parent]
        for token, score in choices:
            self._tokens.append(token)
            self._parents.append(parent)
            self._scores.append(above + score)

    def layer(self) -> None:
        """All choices of a depth are in."""
        self._last = range(self._last.stop, len(self._tokens))

    def frontier(self, width: int) -> list[int]:
        """Nodes of the deepest layer to read: the likeliest, as long as they can be part of the tree."""
        best = set(self._best())
        return [node for node in sorted(self._last, key=lambda node: -self._scores[node])[:width] if node in best]

    def branch(self, node: int) -> Branch:
        """The node as its model is to read it."""
        self._places[node] = len(self._places)
        path = self._path(node)
        return Branch(
            self.request, self.start, tuple(self._places[above] for above in path), self._tokens[node],
            self.ask([self._tokens[above] for above in path]),
        )  # fmt: skip

    def tree(self, kind: str, passes: int) -> DraftTree:
        """The likeliest nodes, likeliest first."""
        best = self._best()
        if not best:
            return EMPTY
        index = {ROOT: ROOT} | {node: at for at, node in enumerate(best)}
        return DraftTree(tuple(self._tokens[node] for node in best), tuple(index[self._parents[node]] for node in best), kind, passes)

    def first_read(self) -> list[int]:
        """The guess at `start`, if one was read: further ones lie where they lie, not in the order of a text."""
        return [self._tokens[node] for node in list(self._places)[:1]]

    def _best(self) -> list[int]:
        """Parents come before their children: they are at least as likely, and older."""
        return sorted(range(len(self._tokens)), key=lambda node: -self._scores[node])[: self.nodes]

    def _path(self, node: int) -> list[int]:
        out = []
        while node != ROOT:
            out.append(node)
            node = self._parents[node]
        return out[::-1]


def grow(forward: Forward, growing: Sequence[Growing], width: int, kind: str) -> list[DraftTree]:
    """Grows the trees of requests together, a call of the model for each depth.

    Args:
        forward: its last call drew a token for each of these requests, in this order. Room was reserved for (depth - 1) * width guesses.
        width: choices at a place, and guesses of a request that are read in one call.
        kind: of the trees.
    """
    for one, choices in zip(growing, forward.ranked(width), strict=True):
        one.add(ROOT, choices)
        one.layer()
    passes = 1
    for depth in range(2, max((one.depth for one in growing), default=0) + 1):
        reading = [(one, node) for one in growing if one.depth >= depth for node in one.frontier(width)]
        reading = reading[: min(forward.max_rows, forward.max_asks)]
        if not reading:
            break
        forward.branch([one.branch(node) for one, node in reading])
        for (one, node), choices in zip(reading, forward.ranked(width), strict=True):
            one.add(node, choices)
        for one in growing:
            one.layer()
        passes = depth
    return [one.tree(kind, passes) for one in growing]
