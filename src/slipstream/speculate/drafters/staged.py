"""Staged speculation (Spector & Re 2023; the vertical cascade of Chen et al. 2024): a drafter for the drafter. Look-ups guess what a small
model will guess, which checks several of its own next tokens in one call.

Owns what the look-ups say of it. Its guess is the one that the small model makes alone, token by token; only the calls are fewer where
the text repeats itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, Branch, DraftContext, Forward
from slipstream.speculate.drafters import draft_model
from slipstream.speculate.drafters.ngram import Index, go_on
from slipstream.step.draft import DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: the smaller model: a folder, a GGUF file or a hub id; the built-in model has one of its own.
        nodes: tokens of a guess at most.
        shortest, longest: how many last tokens are looked up.
        inner: tokens of a look-up at most.
    """

    path: str = ""
    nodes: int = 8
    shortest: int = 2
    longest: int = 4
    inner: int = 4

    def __post_init__(self):
        at_least(1, nodes=self.nodes, shortest=self.shortest, inner=self.inner)
        at_least(self.shortest, longest=self.longest)


class Staged(draft_model.DraftModel):
    """
    Args:
        forward: the small model.
        options: the user's.
        bare: see DraftModel.
    """

    def __init__(self, forward: Forward, options: Options, bare: bool):
        super().__init__(forward, draft_model.Options(nodes=options.nodes), "staged", bare)
        self._options = options
        self._indices: dict[int, Index] = {}

    def drop(self, request: int) -> None:
        self._indices.pop(request, None)
        super().drop(request)

    def _length(self, context: DraftContext) -> int:
        return min(context.budget, self._depth) if context.passes else 0

    def _go_on(self, ready: Sequence[DraftContext], drawn: list[int], longest: int) -> list[DraftTree]:
        guesses, calls = {context.request: [token] for context, token in zip(ready, drawn, strict=True)}, 1
        while open_ := [
            context for context in ready if calls < context.passes and len(guesses[context.request]) < self._length(context)
        ]:
            inner = [self._inner(context, guesses[context.request]) for context in open_]
            branches = [one for context, known in zip(open_, inner, strict=True) for one in self._branches(context, *known)]
            said = iter(self._forward.branch(branches))
            for guess, looked_up in inner:
                own = [next(said) for _ in range(1 + len(looked_up))]
                right = next((at for at, token in enumerate(looked_up) if own[at] != token), len(looked_up))
                guess += own[: right + 1]
            calls += 1
        for context in ready:
            self._guessed(context, guesses[context.request][:-1])  # the last guess was not read
        return [DraftTree.chain(guesses[context.request], self._kind, calls) for context in ready]

    def _inner(self, context: DraftContext, guess: list[int]) -> tuple[list[int], list[int]]:
        """(the guess, what the text had behind its end before)."""
        index = self._indices.setdefault(context.request, Index(self._options.shortest, self._options.longest))
        index.extend(context.tokens)
        size, start = index.look_up([*context.tokens[-self._options.longest :], *guess])
        count = min(self._options.inner, self._length(context) - len(guess) - 1)
        return guess, go_on(context.tokens, start, count) if size and count > 0 else []

    def _branches(self, context: DraftContext, guess: list[int], looked_up: list[int]) -> list[Branch]:
        """The last token of the guess and what was looked up, as a chain that is read at once."""
        line, out = [*guess, *looked_up], []
        for place in range(len(guess) - 1, len(line)):
            ask = self._ask(context, line[: place + 1])
            out.append(Branch(context.request, self._start(context), tuple(range(place + 1)), line[place], ask))
        return out


def make(options: Options, around: Around) -> Staged:
    return Staged(around.forward, options, around.forward.vocab != around.spec.vocab)


def asks(options: Options) -> int:
    """Tokens of one request that are drawn in one call."""
    return 1 + options.inner


beside = draft_model.beside
