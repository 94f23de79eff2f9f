"""Drawn: the tokens of the step before, which the next one reads on the device, whether or not the host has seen them.

Owns how such a token is written down until then: as ~i, below zero, where i is its place in what was drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.step import Chunk
from slipstream.step.plan import UNKNOWN


class Drawn:
    """
    Args:
        parts: what a step drew, on the device; one after the other [n] int32.
        requests: whose they are. [n]
    """

    def __init__(self, parts: Sequence[Tensor], requests: Sequence[int]):
        self._parts, self._requests = parts, requests

    def trunks(self, chunks: Sequence[Chunk]) -> list[Sequence[int]]:
        """The trunks of the chunks of the next step."""
        places = {request: place for place, request in enumerate(self._requests)}
        return [(~places[chunk.request],) if chunk.trunk[0] == UNKNOWN else chunk.trunk for chunk in chunks]

    def fill(self, ids: Tensor) -> None:
        """Puts tokens in place of what `trunks` wrote for them. ids [rows] int32, on the device"""
        torch.where(ids < 0, torch.cat(self._parts)[(~ids).clamp_(min=0)], ids, out=ids)
