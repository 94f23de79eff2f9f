"""Rotary position embedding as data: frequencies per pair, and the ways to stretch a context. Must not know config.json or tensors."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation (Chen et al. 2023): all frequencies divided by `factor`."""

    factor: float

    def stretch(self, frequencies: list[float], theta: float, max_len: int) -> list[float]:
        """The frequencies in use, of those without scaling. theta: of the model; max_len: positions that may occur."""
        return [frequency / self.factor for frequency in frequencies]

    @property
    def amplitude(self) -> float:
        """Factor of cosine and sine."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Context extension of Llama 3.1: slow frequencies are divided by `factor`, fast ones kept, a ramp between.

    Attributes:
        factor: divisor of the frequencies whose wavelength exceeds original_len / low_freq_factor positions.
        low_freq_factor, high_freq_factor: bounds of the ramp, in turns over the original context.
        original_len: context of the first training stage, in positions.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_len: int

    def stretch(self, frequencies: list[float], theta: float, max_len: int) -> list[float]:
        """See LinearScaling."""
        return [self._stretched(frequency) for frequency in frequencies]

    def _stretched(self, frequency: float) -> float:
        turns = self.original_len * frequency / (2 * math.pi)
        keep = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = min(1.0, max(0.0, keep))
        return frequency * (keep + (1 - keep) / self.factor)

    @property
    def amplitude(self) -> float:
        """See LinearScaling."""
        return 1.0


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): pairs that turn less than `slow` times over the original context are divided by `factor`, those that
    turn more than `fast` times are kept, a ramp over the pairs between.

    Attributes:
        factor: divisor of slow frequencies.
        fast, slow: bounds of the ramp, in turns over the original context (beta_fast, beta_slow).
        original_len: context of the first training stage, in positions.
        amplitude: factor of cosine and sine.
        whole: the bounds are widened to whole pairs.
    """

    factor: float
    fast: float
    slow: float
    original_len: int
    amplitude: float
    whole: bool = True

    def stretch(self, frequencies: list[float], theta: float, max_len: int) -> list[float]:
        """See LinearScaling."""
        low, high = self._pair(self.fast, theta, len(frequencies)), self._pair(self.slow, theta, len(frequencies))
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * len(frequencies) - 1)
        width = high - low or 0.001
        out = []
        for pair, frequency in enumerate(frequencies):
            stretched = min(1.0, max(0.0, (pair - low) / width))
            out.append(frequency * (1 - stretched + stretched / self.factor))
        return out

    def _pair(self, turns: float, theta: float, pairs: int) -> float:
        """Which pair, counted in fractions, turns this often over the original context."""
        return pairs * math.log(self.original_len / (turns * 2 * math.pi)) / math.log(theta)


@dataclass(frozen=True, slots=True)
class LongRope:
    """LongRoPE (Ding et al. 2024): a divisor per pair, one set for the original context and one for longer ones.

    Which set is in use follows from the longest position that may occur, not from the text at hand: if it changed while a text
    grows, keys in the cache would no longer fit.

    Attributes:
        short, long: divisors. [rotated pairs]
        original_len: contexts up to this many positions use `short`.
        amplitude: factor of cosine and sine.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_len: int
    amplitude: float

    def stretch(self, frequencies: list[float], theta: float, max_len: int) -> list[float]:
        """See LinearScaling."""
        divisors = self.long if max_len > self.original_len else self.short
        return [frequency / divisor for frequency, divisor in zip(frequencies, divisors, strict=True)]


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongRope


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) over half-split pairs (i, i + head_dim / 2).

    Attributes:
        theta: base of the frequencies.
        scaling: how the context was extended.
        rotated: how many of a head's numbers are rotated, even; None for all, 0 for none (no position embedding at all).
            Their pairs come first: what a checkpoint orders otherwise is put in this order at load.
    """

    theta: float
    scaling: Scaling | None = None
    rotated: int | None = None

    def pairs(self, head_dim: int) -> int:
        """How many pairs of a head are rotated."""
        return (head_dim if self.rotated is None else self.rotated) // 2

    def frequencies(self, head_dim: int, max_len: int) -> list[float]:
        """Radians per position of each pair, 0 for those that are not rotated, in double precision. [head_dim / 2]

        Args:
            head_dim: numbers per head.
            max_len: positions below this may occur.
        """
        pairs = self.pairs(head_dim)
        turned = [self.theta ** (-pair / pairs) for pair in range(pairs)]
        if self.scaling is not None:
            turned = self.scaling.stretch(turned, self.theta, max_len)
        return turned + [0.0] * (head_dim // 2 - pairs)

    @property
    def amplitude(self) -> float:
        """Factor of cosine and sine of the rotated pairs."""
        return 1.0 if self.scaling is None else self.scaling.amplitude


NO_ROPE = RopeSpec(1.0, rotated=0)


def partial_order(head_dim: int, rotated: int) -> tuple[int, ...]:
    """Where the numbers of a head lie in a checkpoint that rotates (i, i + rotated / 2), in the order of RopeSpec. [head_dim]"""
    half, rest = rotated // 2, (head_dim - rotated) // 2
    first, second = range(half), range(half, rotated)
    return (*first, *range(rotated, rotated + rest), *second, *range(rotated + rest, head_dim))
