"""What a language model must beat: general compressors and an interpolated n-gram model, in bits per byte.

Owns the yardsticks for the report of a training run. Every figure is for the held-out text; compressors may first see the
training text where their window is large enough, which is said in the name.
"""

import bz2
import gzip
import lzma
import math
from collections import defaultdict


def bits_per_byte(train: str, held_out: str) -> dict[str, float]:
    """Bits per byte of `held_out` for each yardstick."""
    data = held_out.encode()
    figures = {
        "gzip -9": 8 * len(gzip.compress(data, 9)) / len(data),
        "bzip2 -9": 8 * len(bz2.compress(data, 9)) / len(data),
        "xz -9e": 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
        "byte 6-gram (Witten-Bell, trained on the same books)": byte_ngram(train.encode(), data, 6),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def byte_ngram(train: bytes, test: bytes, order: int) -> float:
    """An interpolated byte n-gram model with Witten-Bell smoothing (Bell, Cleary, Witten 1990), bits per byte of `test`."""
    levels: list[dict[bytes, dict[int, int]]] = [defaultdict(dict) for _ in range(order)]
    wanted = {test[max(0, at - n) : at] for at in range(len(test)) for n in range(order)}
    for n, level in enumerate(levels):
        for at in range(n, len(train)):
            context = train[at - n : at]
            if context in wanted:  # only contexts that the test asks for: the counts of the others are never read
                counts = level[context]
                counts[train[at]] = counts.get(train[at], 0) + 1
    bits = 0.0
    for at in range(len(test)):
        p = 1 / 256
        for n in range(min(order, at + 1)):
            counts = levels[n].get(test[at - n : at])
            if counts:
                total, kinds = sum(counts.values()), len(counts)
                p = (counts.get(test[at], 0) + kinds * p) / (total + kinds)
        bits -= math.log2(p)
    return bits / len(test)
