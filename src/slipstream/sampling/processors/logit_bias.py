"""logit_bias: adds a fixed value to chosen logits (OpenAI)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.sampling.processors import Stateless
from slipstream.step import Admission

STAGE = 10


class LogitBias(Stateless):
    def __init__(self, bias: dict[int, float], device: str):
        self.ids = torch.tensor(list(bias), dtype=torch.int64, device=device)  # [biased]
        self.values = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)  # [biased]

    def apply(self, row: Tensor, path: Sequence[int]) -> None:
        row[self.ids] += self.values


def make(admission: Admission, vocab: int, device: str) -> LogitBias | None:
    bias = dict(admission.params.logit_bias)
    return LogitBias(bias, device) if bias else None
