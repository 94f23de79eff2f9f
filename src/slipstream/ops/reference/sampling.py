"""Ops on rows of logits: a token, log-probabilities."""

import math

import numpy as np
import torch
from torch import Tensor

from slipstream.ops.reference.arithmetic import exp, log, total
from slipstream.ops.types import SampleRows

WORD = 0xFFFFFFFF


def sample(logits: Tensor, rows: SampleRows, out: Tensor) -> None:
    """Chooses one id per row of `logits` [rows, vocab] into `out` int32 [rows] (docs/numerics.md, section 4)."""
    for row, line in enumerate(logits):
        if rows.temperature[row] == 0:
            out[row] = finite_above(line).argmax()  # torch promises the first of equal ones
            continue
        z = finite_above(finite_above(line) / rows.temperature[row])
        keep = kept(z, int(rows.top_k[row]), float(rows.top_p[row]), float(rows.min_p[row]))
        noise = gumbel(int(rows.seed[row]), int(rows.sample[row]), int(rows.position[row]), len(z))
        out[row] = (z + noise).masked_fill_(~keep, -math.inf).argmax()


def finite_above(z: Tensor) -> Tensor:
    """NaN as -inf and +inf as the greatest number, so that a broken model's row still has a choice."""
    return z.nan_to_num(nan=-math.inf, neginf=-math.inf)


def kept(z: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which ids may be sampled: bool [vocab] for z = logits / temperature [vocab]. min-p, then top-k, then top-p."""
    mass = exp(z - z.max())
    keep = mass >= min_p
    if not 0 < top_k < len(z) and top_p >= 1:
        return keep
    order = z.sort(descending=True, stable=True).indices  # equal ones by ascending id
    order = order[keep[order]]
    if top_k > 0:
        order = order[:top_k]
    if top_p < 1:
        running = mass[order].cumsum(0, dtype=torch.float64)
        order = order[: int((running < top_p * running[-1]).sum()) + 1]
    return torch.zeros_like(keep).index_fill_(0, order, True)


def philox(key: tuple, counter: tuple) -> tuple:
    """Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Args:
        key: two words; counter: four words. Ints, or int64 tensors or arrays of one shape, all below 2^32.

    Returns:
        four words of the same kinds. Products wrap around in int64; the masks take the right bits out of them.
    """
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p, r = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (r >> 32 & WORD) ^ c1 ^ k0, r & WORD, (p >> 32 & WORD) ^ c3 ^ k1, p & WORD
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def noise_words(seed: int, sample: int, position: int, vocab: int) -> Tensor:
    """The random word of each id, int64 [vocab]: four ids share a counter. `seed` as the bits of a signed or unsigned word."""
    group = torch.arange((vocab + 3) // 4)
    words = philox((seed & WORD, seed >> 32 & WORD), (position, sample, group, torch.zeros_like(group)))
    return torch.stack(words, dim=1).flatten()[:vocab]


def uniform(words: Tensor) -> Tensor:
    """Random words (int64, below 2^32) as fp32 numbers in (0, 1), finest near 0."""
    return ((words.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)


def gumbel(seed: int, sample: int, position: int, vocab: int) -> Tensor:
    """Standard Gumbel noise per id, fp32 [vocab], a function of its arguments only."""
    return _gumbel(noise_words(seed, sample, position, vocab))


def gumbel_of(seed: np.ndarray, sample: np.ndarray, position: np.ndarray, ids: np.ndarray) -> Tensor:
    """The same for some ids of many rows: int64 [rows, 1] each, ids [rows, n] -> fp32 [rows, n]."""
    counter = np.broadcast_arrays(position, sample, ids // 4, 0)
    words = np.stack(philox(np.broadcast_arrays(seed & WORD, seed >> 32 & WORD, ids)[:2], counter))
    return _gumbel(torch.from_numpy(np.take_along_axis(words, ids[None] % 4, 0)[0]))


def _gumbel(words: Tensor) -> Tensor:
    """-log of an exponential -log1p(-v)."""
    v = uniform(words)
    w = 1 - v
    exponential = torch.where(w == 1, v, -log(w) * v / (1 - w))
    return -log(exponential)


def logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of one token per row and of the `top` likeliest.

    Args:
        logits: [rows, vocab]; tokens: int32 [rows].

    Returns:
        logprob [rows]; rank int32 [rows], 1 is the likeliest, equal ones by ascending id; ids int32 [rows, top] and
        their log-probabilities [rows, top], likeliest first.
    """
    token = tokens.long()[:, None]
    greatest = logits.amax(1, keepdim=True)
    table = logits - greatest - log(total(exp(logits - greatest)))[:, None]  # [rows, vocab]
    own = logits.gather(1, token)
    lower = torch.arange(logits.shape[1]) < token
    rank = 1 + ((logits > own) | ((logits == own) & lower)).sum(1, dtype=torch.int32)
    ids = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return table.gather(1, token)[:, 0], rank, ids.int(), table.gather(1, ids)
