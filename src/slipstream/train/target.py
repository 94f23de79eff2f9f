"""EngineTarget: the frozen model that a drafter is trained for: its hidden states, its distributions, and text in its own words.

Owns how windows of text become a step of the engine's decoder, so that a drafter can be trained for every model that runs. Must not
know the drafter, nor the loss.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.arch.heads import usual_levels
from slipstream.engine.llm import LLM
from slipstream.model.batch import whole
from slipstream.model.build import open_weights
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.step import SamplingParams
from slipstream.train.rest import Rest

PAGE = 16
LOGITS = 256  # rows made at a time
TOGETHER = 32  # requests that continue texts at once


class EngineTarget:
    """Any model that the engine runs. See train.loop.Target.

    Args:
        source: a folder, a GGUF file, a hub id or `dummy:...`.
        levels: of its hidden states (Decoder.watch); None for the usual ones of `kind`.
        rows, length: windows of a call, and tokens of each.
        device: "cpu", "cuda" or "cuda:N".
        kind: of the drafter.
    """

    def __init__(
        self, source: Path | str, levels: Sequence[int] | None, rows: int, length: int, device: str = "cpu", kind: str = "eagle"
    ):
        kernels, self.device, self._source = Kernels(device), device, source
        weights = open_weights(source, device)
        self.spec = weights.spec
        self.levels = tuple(levels) if levels is not None else usual_levels(kind, self.spec)
        self._decoder = Decoder(self.spec, weights, kernels, rows * length, LOGITS, max_len=length)
        self._decoder.watch(self.levels)
        self._room = -(-length // PAGE) * PAGE
        self._pool = torch.zeros(self._decoder.pool_shape(rows * self._room // PAGE, PAGE), device=device)
        self._table = weights.get("embed.weight").float()  # [vocab, hidden]
        self._head = self._table if self.spec.tied else weights.get("head.weight").float()
        self._bias = weights.get("head.bias") if self.spec.head_bias else None

    def embedded(self, tokens: Tensor) -> Tensor:  # [...] -> [..., hidden]
        return self._table[tokens] * self.spec.embed_scale

    def joined(self, states: Tensor, rows: Iterable[Tensor]) -> list[Tensor]:
        return self._rest(states, rows)

    @cached_property
    def _rest(self) -> Rest:
        return Rest(self._source, self.levels[-1], self.device)

    def logits(self, normed: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False):  # a loss on rounded logits learns less
            logits = F.linear(normed.float() * self.spec.logit_scale, self._head, self._bias)
        cap = self.spec.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    @torch.no_grad()
    def read(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """At most as many windows, and as long ones, as it was made for."""
        count, length = windows.shape
        hidden = self._decoder.forward(whole(windows, self._room, PAGE), self._pool)
        every = torch.arange(count * length, dtype=torch.int32, device=self.device)
        states = self._decoder.states(hidden, every)
        logits = torch.cat([self._decoder.logits(hidden, part).clone() for part in every.split(LOGITS)])
        return states.view(count, length, -1), logits.view(count, length, -1)


def continued(
    source: Path | str, beginnings: Sequence[Sequence[int]], length: int, temperature: float, seed: int, device: str = "cpu"
) -> Iterator[list[int]]:
    """Texts that the model itself writes: what a drafter will have to guess.

    Args:
        source: the model.
        beginnings: tokens that each text begins with.
        length: tokens of each text, its beginning included.
        device: see EngineTarget.

    Yields:
        One text per beginning, in order.
    """
    llm = LLM(source, device=device, max_batch=TOGETHER, max_len=length, speculate="none", threads=torch.get_num_threads())
    for at in range(0, len(beginnings), 8 * TOGETHER):
        some = beginnings[at : at + 8 * TOGETHER]
        asked = [
            SamplingParams(max_tokens=length - len(one), temperature=temperature, seed=seed + at + number, ignore_eos=True)
            for number, one in enumerate(some)
        ]
        for one, output in zip(some, llm.generate([list(one) for one in some], asked), strict=True):
            yield [*one, *output.outputs[0].token_ids]
    llm.close()
