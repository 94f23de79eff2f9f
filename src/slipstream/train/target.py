"""Target: the frozen model that a drafter is trained for: its hidden states, its distributions, and text in its own words.

Owns how windows of text become a step of the engine's decoder, so that a drafter can be trained for every model that runs. Must not
know the drafter, nor the loss.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.engine.llm import LLM
from slipstream.model.batch import Batch
from slipstream.model.build import open_weights
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import AttentionRows
from slipstream.step import SamplingParams

LOGITS = 256  # rows made at a time
TOGETHER = 32  # requests that continue texts at once


class Target:
    """A model, read only.

    Args:
        source: a folder, a GGUF file, a hub id or `dummy:...`.
        levels: of its hidden states (Decoder.watch); None for what the final norm reads.
        rows, length: windows of a call, and tokens of each.
    """

    def __init__(self, source: Path | str, levels: Sequence[int] | None, rows: int, length: int):
        kernels = Kernels("cpu")
        weights = open_weights(source)
        self.spec = weights.spec
        self.levels = tuple(levels) if levels is not None else (len(self.spec.layers),)
        self._decoder = Decoder(self.spec, weights, kernels, rows * length, LOGITS, max_len=length)
        self._decoder.watch(self.levels)
        self._pool = torch.zeros(self._decoder.pool_shape(rows, length))  # one page holds a window
        self._table = weights.get("embed.weight").float()  # [vocab, hidden]
        self._head = self._table if self.spec.tied else weights.get("head.weight").float()
        self._bias = weights.get("head.bias") if self.spec.head_bias else None
        self.rows, self.length = rows, length

    def embedded(self, tokens: Tensor) -> Tensor:  # [...] -> [..., hidden]
        return self._table[tokens] * self.spec.embed_scale

    def logits(self, normed: Tensor) -> Tensor:
        """The output layer, through which gradients flow. [..., hidden] -> [..., vocab]"""
        logits = F.linear(normed * self.spec.logit_scale, self._head, self._bias)
        cap = self.spec.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    @torch.no_grad()
    def read(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Reads windows of text, each from its beginning.

        Args:
            windows: [rows, length] at most.

        Returns:
            hidden states [rows, length, levels * hidden] and logits [rows, length, vocab] of all tokens.
        """
        count, length = windows.shape
        hidden = self._decoder.forward(self._batch(windows), self._pool)
        every = torch.arange(count * length, dtype=torch.int32)
        states = self._decoder.states(hidden, every)
        logits = torch.cat([self._decoder.logits(hidden, part).clone() for part in every.split(LOGITS)])
        return states.view(count, length, -1), logits.view(count, length, -1)

    def _batch(self, windows: Tensor) -> Batch:
        count, length = windows.shape
        places = np.tile(np.arange(length, dtype=np.int32), count)
        owner = np.repeat(np.arange(count, dtype=np.int32), length)
        request, positions = torch.from_numpy(owner), torch.from_numpy(places)
        attention = AttentionRows(
            request=request,
            positions=positions,
            linear=positions + 1,
            tail_start=torch.zeros(count * length + 1, dtype=torch.int32),
            tail_slots=torch.zeros(1, dtype=torch.int32),
            page_table=torch.arange(self.rows, dtype=torch.int32)[:, None].contiguous(),
        )
        return Batch(ids=windows.flatten().int(), positions=positions, slots=request * self.length + positions, attention=attention)


def continued(source: Path | str, beginnings: Sequence[Sequence[int]], length: int, temperature: float, seed: int) -> Iterator[list[int]]:
    """Texts that the model itself writes: what a drafter will have to guess.

    Args:
        source: the model.
        beginnings: tokens that each text begins with.
        length: tokens of each text, its beginning included.

    Yields:
        One text per beginning, in order.
    """
    llm = LLM(source, max_batch=TOGETHER, max_len=length, speculate="none", threads=torch.get_num_threads())
    for at in range(0, len(beginnings), 8 * TOGETHER):
        some = beginnings[at : at + 8 * TOGETHER]
        asked = [
            SamplingParams(max_tokens=length - len(one), temperature=temperature, seed=seed + at + number, ignore_eos=True)
            for number, one in enumerate(some)
        ]
        for one, output in zip(some, llm.generate([list(one) for one in some], asked), strict=True):
            yield [*one, *output.outputs[0].token_ids]
    llm.close()
