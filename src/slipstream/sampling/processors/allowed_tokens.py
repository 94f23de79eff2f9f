"""allowed_token_ids: everything else is impossible."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.sampling.processors import Stateless
from slipstream.step import Admission

STAGE = 20


class AllowedTokens(Stateless):
    def __init__(self, allowed: tuple[int, ...], vocab: int, device: str):
        self.forbidden = torch.ones(vocab, dtype=torch.bool, device=device)  # [vocab]
        self.forbidden[list(allowed)] = False

    def apply(self, row: Tensor, path: Sequence[int]) -> None:
        row.masked_fill_(self.forbidden, float("-inf"))


def make(admission: Admission, vocab: int, device: str) -> AllowedTokens | None:
    allowed = admission.params.allowed_token_ids
    return None if allowed is None else AllowedTokens(allowed, vocab, device)
