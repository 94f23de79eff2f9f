"""Drafts of what a request itself says that its text may be (OpenAI's `prediction`), before any other drafter is asked.

Owns where in its prediction a text is. As long as the two agree that is the next place; after a divergence the text's last tokens are
looked for in the prediction: the place with the longest agreement counts, of equal ones the nearest to where the text was lost. So a
prediction may be edited in many places, and is found again a token after each.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from slipstream.speculate.drafter import DraftContext, Drafter, States
from slipstream.step.draft import EMPTY, PREDICTION, DraftTree

LONGEST = 32  # agreement beyond this makes no guess better
NEAR = 8  # places looked at on either side of where the text was lost


class Aligned:
    """One text and its prediction.

    Args:
        prediction: tokens that the text may be.
        begin: of the text, which follows a prompt.
    """

    __slots__ = ("_prediction", "_begin", "_known", "_places", "_at", "_agreed")

    def __init__(self, prediction: Sequence[int], begin: int):
        self._prediction, self._begin, self._known = prediction, begin, begin
        self._places: dict[int, list[int]] = defaultdict(list)  # token -> where it stands
        for place, token in enumerate(prediction):
            self._places[token].append(place)
        self._at, self._agreed = 0, 0  # the place that comes next, or where it was last known; tokens that agree before it

    def guess(self, tokens: Sequence[int], count: int) -> DraftTree:
        """Up to `count` tokens that may follow `tokens`, prompt and text so far."""
        for end in range(self._known + 1, len(tokens) + 1):
            self._follow(tokens, end)
        self._known = len(tokens)
        guess = self._prediction[self._at : self._at + count]
        if not guess or (not self._agreed and len(tokens) > self._begin):
            return EMPTY
        return DraftTree.chain(guess, f"{PREDICTION} {self._agreed.bit_length()}")

    def _follow(self, tokens: Sequence[int], end: int) -> None:
        """Takes in tokens[end - 1]."""
        token = tokens[end - 1]
        if self._at < len(self._prediction) and self._prediction[self._at] == token and (self._agreed or end == self._begin + 1):
            self._at, self._agreed = self._at + 1, min(self._agreed + 1, LONGEST)
            return
        places = self._places.get(token, ())
        middle = bisect_left(places, self._at)
        near = (place + 1 for place in places[max(0, middle - NEAR) : middle + NEAR])
        found = ((self._agreement(tokens, end, place), -abs(place - 1 - self._at), place) for place in near)
        self._agreed, _, self._at = max(found, default=(0, 0, self._at))

    def _agreement(self, tokens: Sequence[int], end: int, place: int) -> int:
        """How many tokens before `place` are those of the text before `end`."""
        most, length = min(place, end - self._begin, LONGEST), 0
        while length < most and self._prediction[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length


class Predicted:
    """Guesses by predictions, and asks another drafter where there are none or the text is not in them.

    Args, Attributes:
        other: the drafter that was chosen.
    """

    def __init__(self, other: Drafter):
        self.max_draft, self.other = other.max_draft, other
        self.rounding = other if getattr(other, "beside", None) is not None else None
        if hasattr(other, "observe"):
            self.observe = other.observe
        self._aligned: dict[int, Aligned] = {}

    def watch(self, states: Sequence[States]) -> None:
        """For a drafter that looks into the model; called only if it does."""
        self.other.watch(states)

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        if not any(context.prediction for context in contexts):
            return self.other.propose(contexts)
        trees = [self._guess(context) if context.prediction else EMPTY for context in contexts]
        open_ = [at for at, tree in enumerate(trees) if not tree.tokens] if self.max_draft else []
        for at, tree in zip(open_, self.other.propose([contexts[at] for at in open_]) if open_ else (), strict=True):
            trees[at] = tree
        return trees

    def drop(self, request: int) -> None:
        self._aligned.pop(request, None)
        self.other.drop(request)

    def _guess(self, context: DraftContext) -> DraftTree:
        aligned = self._aligned.get(context.request)
        if aligned is None:
            aligned = self._aligned[context.request] = Aligned(context.prediction, context.prompt)
        return aligned.guess(context.tokens, context.budget)
