"""Repetition (Keskar et al. 2019, prompt and output), presence and frequency penalties (OpenAI, output only)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.step import Admission, SamplingParams

STAGE = 30


class Penalties:
    """Keeps counts as dense rows, so that applying them is a handful of element-wise operations.

    Drafted ancestors are counted in for the time of one row and taken out again.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], output: Sequence[int], vocab: int, device: str):
        self.repetition, self.presence, self.frequency = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        self.prompt = torch.zeros(vocab, dtype=torch.bool, device=device)  # [vocab] said in the prompt
        self.prompt[list(prompt)] = True
        self.counts = torch.zeros(vocab, device=device)  # [vocab] times said in the output
        for token in output:
            self.append(token)

    def append(self, token: int) -> None:
        self.counts[token] += 1

    def apply(self, row: Tensor, path: Sequence[int]) -> None:
        for token in path:
            self.counts[token] += 1
        said = self.counts > 0
        if self.repetition != 1:
            scaled = torch.where(row > 0, row / self.repetition, row * self.repetition)
            row.copy_(torch.where(said | self.prompt, scaled, row))
        if self.frequency:
            row -= self.counts * self.frequency
        if self.presence:
            row -= said * self.presence
        for token in path:
            self.counts[token] -= 1


def make(admission: Admission, vocab: int, device: str) -> Penalties | None:
    params = admission.params
    if params.repetition_penalty == 1 and not params.presence_penalty and not params.frequency_penalty:
        return None
    prompt, output = admission.tokens[: admission.prompt], admission.tokens[admission.prompt :]
    return Penalties(params, prompt, output, vocab, device)
