"""min_tokens: no end token and no stop token before enough has been said."""

from collections.abc import Sequence

from torch import Tensor

from slipstream.step import Admission

STAGE = 22


class MinTokens:
    def __init__(self, missing: int, ends: list[int]):
        self.missing = missing
        self.ends = ends

    def append(self, token: int) -> None:
        self.missing -= 1

    def apply(self, row: Tensor, path: Sequence[int]) -> None:
        if len(path) < self.missing:
            row[self.ends] = float("-inf")


def make(admission: Admission, vocab: int, device: str) -> MinTokens | None:
    missing = admission.params.min_tokens - (len(admission.tokens) - admission.prompt)
    ends = sorted({*admission.ends, *admission.params.stop_token_ids})
    return MinTokens(missing, ends) if missing > 0 and ends else None
