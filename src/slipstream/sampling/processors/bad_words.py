"""bad_words: the last token of a forbidden sequence is impossible where its other tokens have just been said."""

from collections.abc import Sequence

from torch import Tensor

from slipstream.step import Admission

STAGE = 21


class BadWords:
    def __init__(self, banned: tuple[tuple[int, ...], ...], tokens: Sequence[int]):
        self.banned = banned
        self.reach = max(len(word) for word in banned) - 1  # how much history a decision needs
        self.recent = list(tokens[-self.reach :]) if self.reach else []

    def append(self, token: int) -> None:
        if self.reach:
            self.recent = [*self.recent, token][-self.reach :]

    def apply(self, row: Tensor, path: Sequence[int]) -> None:
        history = tuple(self.recent) + tuple(path)
        for word in self.banned:
            lead = len(word) - 1
            if lead == 0 or history[-lead:] == word[:-1]:
                row[word[-1]] = float("-inf")


def make(admission: Admission, vocab: int, device: str) -> BadWords | None:
    # Bad words are about the output: the prompt may contain them, so a sequence is not completed across the border.
    return BadWords(admission.banned, admission.tokens[admission.prompt :]) if admission.banned else None
