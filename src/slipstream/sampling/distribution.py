"""The distribution that a row is drawn from, as numbers, and notes of such. The `sample` op draws without ever writing it down; rules
of verification that weigh drafts (speculate/verify) need to read it.

Owns the way from processed logits to probabilities: the same temperature and the same kept ids as the op's (docs/numerics.md,
section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from slipstream.ops.reference.sampling import finite_above, kept
from slipstream.step import SamplingParams


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities of one row.

    Args:
        logits: processed, [vocab].

    Returns:
        [vocab] fp64 on the host, its sum 1. At temperature 0 the whole of it is on the id that is taken.
    """
    line = finite_above(logits.float().cpu())
    best = int(line.argmax())
    if params.temperature == 0 or line[best] == -torch.inf:
        return torch.zeros(len(line), dtype=torch.float64).index_fill_(0, torch.tensor([best]), 1)
    z = finite_above(line / float(np.float32(params.temperature)))
    kept_z = z.double()
    if params.top_k or params.top_p < 1 or params.min_p:
        keep = kept(z, params.top_k, float(np.float32(params.top_p)), float(np.float32(params.min_p)))
        kept_z.masked_fill_(~keep, -torch.inf)
    return torch.softmax(kept_z, dim=0)


@dataclass(slots=True)
class Notes:
    """What was drawn while a draft was made.

    Attributes:
        drawn: drafted path -> the tokens drawn after it, in order, each with what it was drawn from ([vocab] fp64).
    """

    drawn: dict[tuple[int, ...], list[tuple[int, Tensor]]] = field(default_factory=dict)

    def add(self, path: Sequence[int], token: int, drawn_from: Tensor) -> None:
        self.drawn.setdefault(tuple(path), []).append((token, drawn_from))
