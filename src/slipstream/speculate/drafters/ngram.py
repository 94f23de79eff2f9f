"""Prompt lookup: what followed the last few tokens when they were seen before (Saxena 2023, "prompt lookup decoding").

Owns an index of the n-grams of each request: each new token costs one entry per n, a guess one look-up per n, however long
the text is. Good for text that repeats itself: code, summaries, tables, answers about a document.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.base.errors import InputError
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext
from slipstream.step.draft import EMPTY, DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        shortest, longest: how many last tokens are looked up; the longest that were seen before count.
        nodes: tokens of a guess at most.
    """

    shortest: int = 2
    longest: int = 4
    nodes: int = 8

    def __post_init__(self):
        at_least(1, shortest=self.shortest, nodes=self.nodes)
        if self.longest < self.shortest:
            raise InputError(f"speculate: longest={self.longest} must be at least shortest={self.shortest}")


class Index:
    """n-gram -> where the text went on, the last time. The n-gram at the text's end is not in it yet."""

    __slots__ = ("_ends", "_sizes", "_known")

    def __init__(self, shortest: int, longest: int):
        self._sizes = range(longest, shortest - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}
        self._known = 0  # n-grams that end before this place are in

    def extend(self, tokens: Sequence[int]) -> None:
        """Takes in what is new: every n-gram that another token follows."""
        for end in range(max(self._known, 1), len(tokens)):
            for size in self._sizes:
                if size <= end:
                    self._ends[tuple(tokens[end - size : end])] = end
        self._known = len(tokens)

    def look_up(self, tokens: Sequence[int]) -> tuple[int, int]:
        """(n, where the text went on) of the longest n-gram at the end that was seen before; (0, 0) if there is none."""
        for size in self._sizes:
            end = self._ends.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if end is not None:
                return size, end
        return 0, 0


class NGram:
    def __init__(self, options: Options):
        self.max_draft, self._options = options.nodes, options
        self._indices: dict[int, Index] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [self._guess(context) for context in contexts]

    def drop(self, request: int) -> None:
        self._indices.pop(request, None)

    def _guess(self, context: DraftContext) -> DraftTree:
        index = self._indices.get(context.request)
        if index is None:
            index = self._indices[context.request] = Index(self._options.shortest, self._options.longest)
        index.extend(context.tokens)
        size, start = index.look_up(context.tokens)
        if not size:
            return EMPTY
        return DraftTree.chain(go_on(context.tokens, start, min(context.budget, self.max_draft)), f"ngram {size}")


def go_on(tokens: Sequence[int], start: int, count: int) -> list[int]:
    """The `count` tokens from `start` on. Where the text ends before that it repeats with this period, and so does the guess."""
    out = list(tokens[start : start + count])
    while len(out) < count:
        out.append(out[len(out) - len(tokens) + start])
    return out


def make(options: Options, around: Around) -> NGram:
    return NGram(options)
