"""A sampler that notes what it drew from. Rules of verification that weigh a draft must know the distribution that each of its tokens
was really drawn from (speculate/verify); a drafter that draws with its request's voice leaves them here by itself.

Owns when a note is made. Which voice has some, and what becomes of them, is the worker's affair.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from slipstream.ops.reference.sampling import WORD, philox
from slipstream.sampling.distribution import Notes, distribution
from slipstream.sampling.sampler import Sampler, SampleRow, Voice
from slipstream.step import TokenLogprobs

APART = 2  # last word of the counters that make a seed; those of the noise and of the dice are 0 and 1


def apart(voice: Voice, position: int) -> Voice:
    """The voice for a draft that begins at `position`, with noise that nothing else is drawn with, and with notes.

    Where the text depends on what was drafted, as it does with every rule but `match`, the noise of a draft must be gone when the
    next one is made: block verification has looked at all of it.
    """
    low, high, _, _ = philox((voice.seed & WORD, voice.seed >> 32 & WORD), (position, voice.sample, 0, APART))
    seed = high << 32 | low
    return replace(voice, seed=seed - 2**64 if seed >= 2**63 else seed, notes=Notes())


class NotingSampler(Sampler):
    """Notes what it draws for voices that have notes."""

    def draw(self, logits: Tensor, rows: Sequence[SampleRow]) -> tuple[list[int], list[TokenLogprobs | None]]:
        tokens, chosen = super().draw(logits, rows)
        for line, row, token in zip(logits, rows, tokens, strict=True):  # processed by now
            if row.voice.notes is not None:
                row.voice.notes.add(row.path, token, distribution(line, row.voice.params))
        return tokens, chosen
