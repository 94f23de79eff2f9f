"""Guessing: drawing from what a drafter's model made, and second choices. The half of a `Forward` (speculate/drafter.py) that all have.

Owns what was asked for in the last call, its logits and what was drawn. Where rows come from, and what they see, is whose class this is
the base of.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from slipstream.arch.spec import ModelSpec
from slipstream.ops.reference.sampling import gumbel_of
from slipstream.ops.staging import Staging
from slipstream.sampling.noting import apart
from slipstream.sampling.sampler import Sampler, SampleRow, Voice
from slipstream.speculate.drafter import Feed

SURER = 2.0  # factor of logits at temperature 0; of 1 to 4 the best on held-out text, with a head and with a small model


class Model(Protocol):
    """A Decoder, or a head (model/heads), which has `ahead` and `apart` too."""

    spec: ModelSpec
    max_len: int

    def logits(self, hidden: Tensor, rows: Tensor) -> Tensor: ...


class Guessing:
    """
    Args:
        decoder: the model, whose logits are drawn from.
        sampler: draws.
        device: where the model is.
    """

    def __init__(self, decoder: Model, sampler: Sampler, device: str):
        self._decoder, self._sampler = decoder, sampler
        self.vocab, self.max_asks, self.max_len = decoder.spec.vocab, sampler.max_rows, decoder.max_len
        self.ahead, self._apart = getattr(decoder, "ahead", 1), getattr(decoder, "apart", 0)
        self._picked = Staging((self.max_asks,), np.int32, device)
        self._asked: list[SampleRow] = []
        self._drawn: list[int] = []
        self._logits: Tensor | None = None  # of what was asked for, [asked, vocab]

    def _guess(self, hidden: Tensor, feeds: Sequence[Feed], last: Sequence[int]) -> list[int]:
        """Draws what feeds ask for.

        Args:
            hidden: what the model made. [any, width]
            last: row of each feed's last token there.
        """
        rows, asks, depths = [], [], []
        for feed, row in zip(feeds, last, strict=True):
            for depth, ask in enumerate((feed.ask, *feed.further) if feed.ask is not None else ()):
                rows.append(row + depth * self._apart)
                asks.append(ask)
                depths.append(depth)
        return self._draw(hidden, rows, asks, depths)

    def _draw(self, hidden: Tensor, rows: Sequence[int], asks: list[SampleRow], depths: Sequence[int] = ()) -> list[int]:
        """A token for each of these rows.

        Args:
            depths: of each token asked for, where several are guessed from one place.
        """
        self._asked = asks
        if not asks:
            return []
        self._picked.host[: len(asks)] = rows
        self._logits = self._decoder.logits(hidden, self._picked.upload()[: len(asks)])  # [asks, vocab]
        if any(depths) and any(by_path(ask.voice) for ask in asks):
            self._drawn = self._draw_by_depth(depths)
        else:
            self._drawn = self._sampler.draw(self._logits, asks)[0]
        return self._drawn

    def _draw_by_depth(self, depths: Sequence[int]) -> list[int]:
        """Draws what was guessed from one place one depth after the other, so that each knows the tokens before it.

        Args:
            depths: of each token asked for; those of a feed follow each other from 0 on.
        """
        drawn = [0] * len(depths)
        for depth in range(max(depths) + 1):
            some = [at for at, other in enumerate(depths) if other == depth]
            for at in some:
                self._asked[at] = replace(self._asked[at], path=drawn[at - depth : at])
            part = self._logits[some]  # a copy, which is edited
            for at, token in zip(some, self._sampler.draw(part, [self._asked[at] for at in some])[0], strict=True):
                drawn[at] = token
            self._logits[some] = part
        return drawn

    def again(self) -> list[int]:
        if not self._asked:
            return []
        self._logits[torch.arange(len(self._drawn)), self._drawn] = float("-inf")
        self._asked = [replace(ask, voice=_anew(ask)) for ask in self._asked]
        self._drawn = self._sampler.draw(self._logits, self._asked)[0]
        return self._drawn

    def ranked(self, count: int) -> list[list[tuple[int, float]]]:
        if not self._asked:
            return []
        asked, every = self._asked, torch.arange(len(self._drawn))
        ranks, values = [], []
        for rank in range(count):
            ranks.append(self._drawn if rank == 0 else self.again())
            values.append(self._logits[every, self._drawn])
        tokens, logits = np.array(ranks).T, torch.stack(values, 1).cpu()  # [asked, count] both
        scores = shares(tokens, logits, asked).tolist()
        known = logits.isfinite().tolist()
        out = []
        for own, line, real in zip(tokens.tolist(), scores, known, strict=True):
            chosen = [at for at, token in enumerate(own) if real[at] and token not in own[:at]]  # where hardly any is left, one comes again
            out.append([(own[at], line[at]) for at in chosen])
        return out


def shares(tokens: np.ndarray, logits: Tensor, asked: Sequence[SampleRow]) -> Tensor:
    """Logarithms of the shares of the choices of some places, of which each has one in all.

    The noise is known, and with it the scores among which the greatest is drawn; how far these lie apart says more than any probability
    (docs/numerics.md, section 4). At temperature 0, where nothing but the greatest counts, two models agree on it more often than either
    is sure of it: hence SURER.

    Args:
        tokens: the choices, best first. [asked, count]
        logits: of these, -inf for such as cannot be drawn. [asked, count]
        asked: what was to be drawn there.

    Returns:
        [asked, count]
    """
    heat = torch.tensor([ask.voice.params.temperature for ask in asked])[:, None]
    scores = logits * SURER
    if heat.any():
        key = np.array([(ask.voice.seed, ask.voice.sample, ask.position) for ask in asked]).T[:, :, None]  # three of [asked, 1]
        scores = torch.where(heat > 0, logits / heat.clamp(min=1e-6) + gumbel_of(*key, tokens), scores)
    return scores.log_softmax(1)


def by_path(voice: Voice) -> bool:
    """Whether what it draws depends on the guesses before, or is noted by them."""
    return bool(voice.processors) or voice.notes is not None


def _anew(ask: SampleRow) -> Voice:
    """Draws once more where processors have had their turn. With notes the noise is fresh: what the first choice left of the old one
    is no longer distributed as the logits say, once others have moved up among the kept ids."""
    bare = replace(ask.voice, processors=[])
    return bare if bare.notes is None else replace(apart(bare, ask.position), notes=bare.notes)
