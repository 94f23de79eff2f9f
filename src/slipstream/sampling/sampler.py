"""The sampler: logits of a step's sampling rows in, tokens and log-probabilities out.

Owns the order: raw log-probabilities are kept, processors edit, the `sample` op draws with noise keyed by position.
Knows nothing of drafts beyond a row's `path` (the drafted tokens between the request's history and the row).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from slipstream.base import registry
from slipstream.ops.dispatch import Kernels
from slipstream.ops.replay import Replay
from slipstream.ops.staging import Fetch, Staging, send
from slipstream.ops.types import SampleRows
from slipstream.sampling.distribution import Notes
from slipstream.sampling.processors import Processor
from slipstream.step import Admission, SamplingParams, TokenLogprobs

_PROCESSORS = "slipstream.sampling.processors"


@cache
def _processors() -> list[ModuleType]:
    """All processors in the order in which they act; looked up once, not for every request."""
    return sorted((registry.load(_PROCESSORS, name) for name in registry.names(_PROCESSORS)), key=lambda module: module.STAGE)


@dataclass(slots=True)
class Voice:
    """How one request samples: its parameters, the key of its noise and its processors' state; `notes` where somebody must know what
    it was drawn from (noting.py)."""

    params: SamplingParams
    seed: int
    sample: int
    processors: list[Processor] = field(default_factory=list)
    notes: Notes | None = None

    @staticmethod
    def of(admission: Admission, vocab: int, device: str = "cpu") -> "Voice":
        made = (module.make(admission, vocab, device) for module in _processors())
        seed = admission.seed - 2**64 if admission.seed >= 2**63 else admission.seed  # the same 64 bits, as int64
        return Voice(admission.params, seed, admission.sample, [processor for processor in made if processor is not None])

    def append(self, tokens: Sequence[int]) -> None:
        for processor in self.processors:
            for token in tokens:
                processor.append(token)


@dataclass(slots=True)
class SampleRow:
    """One row that needs a token: whose it is, the position of the token to draw, the drafted tokens before it."""

    voice: Voice
    position: int
    path: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Scoring:
    """Log-probabilities that are being computed.

    Attributes:
        facts: tokens, values and ranks [rows], ids and values of the likeliest [rows, most].
        tops: how many of these each row wants.
    """

    facts: tuple[Fetch, ...]
    tops: Sequence[int]

    def result(self) -> list[TokenLogprobs]:
        """One entry per row."""
        return [
            TokenLogprobs(token, value, rank, tuple(zip(likeliest[:top], logprobs[:top], strict=True)))
            for token, value, rank, likeliest, logprobs, top in zip(*(fact.list() for fact in self.facts), self.tops, strict=True)
        ]


class Drawing:
    """Tokens that are being drawn.

    Args:
        tokens: as they will be, on the device. [rows] int32
        asking, scoring: rows whose log-probabilities are wanted, and these.
    """

    def __init__(self, tokens: Tensor, asking: Sequence[int], scoring: Scoring | None):
        self.tokens = tokens
        self._fetch, self._asking, self._scoring = Fetch(tokens), asking, scoring

    def result(self) -> tuple[list[int], list[TokenLogprobs | None]]:
        """A token per row, and its log-probability where it was asked for."""
        tokens = self._fetch.list()
        chosen: list[TokenLogprobs | None] = [None] * len(tokens)
        if self._scoring is not None:
            for index, entry in zip(self._asking, self._scoring.result(), strict=True):
                chosen[index] = entry
        return tokens, chosen


class Sampler:
    """Draws tokens for up to `max_rows` rows at a time."""

    def __init__(self, kernels: Kernels, max_rows: int):
        self.kernels, self.max_rows = kernels, max_rows
        self._facts = Staging((8, max_rows), np.int32, kernels.device)  # temperature, top_p, min_p; top_k, position, sample; seeds
        self._views: dict[int, SampleRows] = {}  # of these on the device, by number of rows
        self._drawing = Replay(kernels, kernels.pads)
        self.tokens = torch.zeros(max_rows, dtype=torch.int32, device=kernels.device)

    def draw(self, logits: Tensor, rows: Sequence[SampleRow]) -> tuple[list[int], list[TokenLogprobs | None]]:
        """Samples one token per row, as `start` does, and waits for them."""
        return self.start(logits, rows).result()

    def start(self, logits: Tensor, rows: Sequence[SampleRow]) -> Drawing:
        """Begins to sample one token per row; edits `logits` [rows, vocab] in place. Lines of logits past `rows` fill a step up: nobody
        asks for what is drawn there."""
        count, size = len(rows), len(logits)
        wanted = [row.voice.params.logprobs for row in rows]
        filled, logits = logits, logits[:count]
        raw = logits
        if any(row.voice.processors for row in rows):
            if any(top is not None for top in wanted):
                raw = logits.clone()
            self.process(logits, rows)
        choices, out = self._arguments(rows, size), self.tokens[:size]
        self._drawing.run(lambda: self.kernels.sample(filled, choices, out), size, (filled,))
        tokens = out[:count].clone()  # the next call writes to `out`
        asking = [index for index, top in enumerate(wanted) if top is not None]
        scoring = None
        if asking:
            of = slice(None) if len(asking) == count else send(asking, logits.device)
            scoring = self.start_scores(raw[of], tokens[of], [wanted[index] for index in asking])
        return Drawing(tokens, asking, scoring)

    def process(self, logits: Tensor, rows: Sequence[SampleRow]) -> None:
        """Edits `logits` [rows, vocab] in place, as each row's processors want."""
        for logit, row in zip(logits, rows, strict=True):
            for processor in row.voice.processors:
                processor.apply(logit, row.path)

    def score(self, logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
        """Log-probabilities of given `tokens` under raw `logits` [rows, vocab], with the `tops` likeliest of each row."""
        return self.start_scores(logits, send(tokens, logits.device), tops).result()

    def start_scores(self, logits: Tensor, tokens: Tensor, tops: Sequence[int]) -> Scoring:
        """Begins to compute them. tokens [rows] int32"""
        return Scoring(tuple(map(Fetch, (tokens, *self.kernels.logprobs(logits, tokens, max(tops))))), tops)

    def _arguments(self, rows: Sequence[SampleRow], size: int) -> SampleRows:
        """What `rows` ask for, on the device; `size` of it, greedy where nobody asks."""
        count, params, facts = len(rows), [row.voice.params for row in rows], self._facts.host
        floats, ints, seeds = facts[:3].view(np.float32), facts[3:6], facts[6:].reshape(-1).view(np.int64)
        floats[:, :count] = [[one.temperature for one in params], [one.top_p for one in params], [one.min_p for one in params]]
        floats[0, count:size] = 0
        ints[:, :count] = [[one.top_k for one in params], [row.position for row in rows], [row.voice.sample for row in rows]]
        seeds[:count] = [row.voice.seed for row in rows]
        self._facts.upload()
        if size not in self._views:
            device = self._facts.device
            temperature, top_p, min_p = device[:3, :size].view(torch.float32)
            top_k, position, sample = device[3:6, :size]
            seed = device[6:].view(-1).view(torch.int64)[:size]
            self._views[size] = SampleRows(temperature, top_k, top_p, min_p, seed, position, sample)
        return self._views[size]
