"""Lookahead decoding (Fu et al. 2024): the model itself finds n-grams that may come, beside its work. No weights, no training.

Owns a window of guessed future tokens for each request, and a pool of n-grams. What the model draws at the window's nodes is the next
window (Jacobi iteration), and every n-gram on the way goes to the pool, where it is found when its first token has been said. The window
is a comb: its first level is a chain below the last token, and each of its nodes carries a chain of the other levels:

    last token - a1 - a2 - a3        level 0: what was guessed longest ago
        |        |    |    |
        b0       b1   b2   b3        level 1; the deepest level is drawn anew in every step
        |        |    |    |
        c0       c1   c2   c3

Nodes of the window are there to be drawn at, seldom to be right, so a controller that counts what is right soon leaves them out; the pool
then lives on the text alone. With `control=False` every step pays for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from slipstream.base.errors import InputError
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext
from slipstream.step.draft import DraftTree

LARGEST = 64  # nodes


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        size: tokens of an n-gram, the one by which it is found included.
        window: columns of the window.
        guesses: n-grams that are checked in a step at most.
    """

    size: int = 4
    window: int = 5
    guesses: int = 4

    def __post_init__(self):
        at_least(3, size=self.size)
        at_least(1, window=self.window, guesses=self.guesses)
        if self.nodes > LARGEST:
            raise InputError(
                f"speculate='lookahead': size={self.size}, window={self.window} and guesses={self.guesses} make {self.nodes} nodes, more "
                f"than {LARGEST}; make one of them smaller"
            )

    @property
    def nodes(self) -> int:
        return self.guesses * (self.size - 1) + self.window - 1 + (self.size - 2) * self.window


@dataclass(slots=True)
class Ahead:
    """One request's window and pool.

    Attributes:
        levels: of the window, [size - 1][window]; the first one's column 0 is the last token.
        pool: first token -> n-grams without it, the newest last.
        known: tokens of the text whose n-grams are in.
        length: of the text when the window was laid out; 0: it was not.
    """

    levels: list[list[int]]
    pool: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    known: int = 0
    length: int = 0


class Lookahead:
    def __init__(self, options: Options):
        self.max_draft, self._options = options.nodes, options
        self._ahead: dict[int, Ahead] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [self._guess(context) for context in contexts]

    def observe(self, request: int, tree: DraftTree, sampled: Sequence[int]) -> None:
        """What was drawn at the deepest level becomes the next one."""
        ahead = self._ahead.get(request)
        if ahead is None or not ahead.length:
            return
        paths = self._paths(ahead.levels)
        nodes = [tree.follow(path) for path in paths]
        if any(len(found) < len(path) for found, path in zip(nodes, paths, strict=True)):
            return  # it was cut
        new = [sampled[found[-1] + 1] for found in nodes]
        for column, token in enumerate(new):
            first, *rest = (level[column] for level in ahead.levels)
            self._remember(ahead, first, (*rest, token))
        ahead.levels, ahead.length = [*(list(level) for level in ahead.levels[1:]), new], 0

    def drop(self, request: int) -> None:
        self._ahead.pop(request, None)

    def _guess(self, context: DraftContext) -> DraftTree:
        tokens, size = context.tokens, self._options.size
        ahead = self._ahead.get(context.request)
        if ahead is None:
            columns = range(self._options.window)
            levels = [[tokens[(7 * column + 3 * level) % len(tokens)] for column in columns] for level in range(size - 1)]  # anything does
            ahead = self._ahead[context.request] = Ahead(levels)
        for end in range(max(ahead.known, size), len(tokens) + 1):
            self._remember(ahead, tokens[end - size], tuple(tokens[end - size + 1 : end]))
        ahead.known, ahead.length = len(tokens) + 1, len(tokens)
        ahead.levels[0][0] = tokens[-1]
        chains = ahead.pool.get(tokens[-1], [])[::-1]
        tree = DraftTree.merge([*chains, *self._paths(ahead.levels)])
        return DraftTree(tree.tokens, tree.parents, "lookahead")

    def _paths(self, levels: list[list[int]]) -> list[list[int]]:
        """From below the last token to each column's deepest level."""
        first, *others = levels
        return [[*first[1 : column + 1], *(level[column] for level in others)] for column in range(len(first))]

    def _remember(self, ahead: Ahead, first: int, rest: tuple[int, ...]) -> None:
        known = ahead.pool.setdefault(first, [])
        if rest in known:
            known.remove(rest)
        known.append(rest)
        del known[: -self._options.guesses]


def make(options: Options, around: Around) -> Lookahead:
    return Lookahead(options)
