"""A tree that grows holds the likeliest of all guesses that a head could make, and only what lies below guesses that stay is read."""

import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from slipstream.speculate.growing import Growing, grow
from slipstream.step.draft import ROOT


class Oracle:
    """A model whose choices behind a path, and their shares, follow from a seed; it checks how it is asked."""

    max_rows = max_asks = 100

    def __init__(self, seed: int, width: int):
        self.seed, self.width = seed, width
        self.paths = [[(number, ())] for number in ()]
        self.read = {}  # (request, place) -> path of tokens

    def choices(self, request: int, path: tuple[int, ...], count: int) -> list[tuple[int, float]]:
        rng = random.Random(hash((self.seed, request, path)))
        weights = sorted((rng.choice([1, 2, 4, 8]) for _ in range(count + 1)), reverse=True)
        return [(10 * at + len(path), math.log(weight / sum(weights))) for at, weight in enumerate(weights[:count])]

    def begin(self, requests):
        self.asked = [(request, ()) for request in requests]

    def branch(self, branches):
        self.asked = []
        for one in branches:
            above = self.read[one.request, one.path[-2]] if len(one.path) > 1 else ()
            path = (*above, one.token)
            assert one.ask == (one.request, path) and one.start == 7 and (one.request, one.path[-1]) not in self.read
            self.read[one.request, one.path[-1]] = path
            self.asked.append((one.request, path))

    def ranked(self, count):
        assert count == self.width
        return [self.choices(request, path, count) for request, path in self.asked]


def every(oracle: Oracle, request: int, depth: int) -> dict[tuple[int, ...], float]:
    """Path -> score of all paths up to a depth."""
    scores, layer = {}, {(): 0.0}
    for _ in range(depth):
        layer = {
            (*path, token): above + share for path, above in layer.items() for token, share in oracle.choices(request, path, oracle.width)
        }
        scores |= layer
    return scores


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4), st.integers(1, 12))
def test_the_tree_is_the_best_that_the_choices_allow(seed, width, depth, nodes):
    oracle = Oracle(seed, width)
    growing = [Growing(number, 7, nodes, depth, lambda guess, number=number: (number, tuple(guess))) for number in range(2)]
    oracle.begin(range(2))
    for number, tree in enumerate(grow(oracle, growing, width, "eagle")):
        tree.check()
        scores = every(oracle, number, depth)
        paths = [tuple(tree.tokens[above] for above in tree.path(node)) for node in range(len(tree))]
        mine = [scores[path] for path in paths]
        assert mine == sorted(mine, reverse=True) and len(set(paths)) == len(paths) == min(nodes, len(scores), len(paths))
        assert tree.kind == "eagle" and tree.passes <= depth
        if width == 1:
            assert tree.parents == tuple(range(ROOT, len(tree) - 1)) and len(tree) == min(nodes, depth)
        if nodes <= width:  # the frontier is wide enough for all that can stay
            best = sorted(scores.values(), reverse=True)[:nodes]
            assert all(math.isclose(a, b) for a, b in zip(mine, best, strict=True))
        kept = set(paths)
        for path in oracle.read.values():
            assert len(path) < depth
        for path, other in itertools.product(kept, scores):
            if other[:-1] in kept | {()} and other not in kept and other[:-1] in {(), *map(tuple, oracle.read.values())}:
                assert len(paths) == nodes and scores[other] <= min(mine) + 1e-9, f"{other} is likelier than what stayed; {path}"
