"""Pooling: the model's last states of a prompt as one vector, gathered while the prompt's rows run through the ordinary steps.

Owns the sums of requests under way. Stands between the runner and its decoder and looks on; requests without a vector cost a
dictionary look-up per step. A prompt comes in chunks, and after a preemption some of its rows come again: each position counts
once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.step import Chunk, Plan


@dataclass(slots=True)
class Vector:
    """A prompt on its way to a vector: `done` positions are in `total`, fp64 [hidden]."""

    mean: bool
    unit: bool
    done: int = 0
    total: Tensor | None = None


class Pooling:
    """A decoder that also keeps what requests want of their states.

    Args:
        decoder: does the work; everything but `forward` goes to it as it is.
    """

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self._wanted: dict[int, Vector] = {}
        self._chunks: Sequence[Chunk] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def want(self, request: int, pooling: str, unit: bool) -> None:
        """A request's prompt is to become a vector: "mean" of all its states or the "last" one, of length 1 if `unit`."""
        self._wanted[request] = Vector(pooling == "mean", unit)

    def take(self, request: int) -> bytes:
        """The vector as little-endian fp32; the request is forgotten. Empty if it was not wanted or not finished."""
        vector = self._wanted.pop(request, None)
        if vector is None or vector.total is None:
            return b""
        value = vector.total / vector.done if vector.mean else vector.total
        if vector.unit:
            value = value / value.norm().clamp_min(1e-12)
        return value.cpu().numpy().astype("<f4").tobytes()

    def begin(self, plan: Plan) -> Plan:
        """Looks at a plan whose rows are those of the next call of `forward`. Returns the plan to run: the same without the scores
        of prompts that only become vectors. They ask for scores so that every row is computed; no logits are made for them."""
        self._chunks = plan.chunks if self._wanted else ()
        if not self._chunks:
            return plan
        chunks = (replace(chunk, score=None) if chunk.request in self._wanted else chunk for chunk in plan.chunks)
        return replace(plan, chunks=tuple(chunks))

    def forward(self, batch: Batch, pool: Tensor) -> Tensor:
        hidden = self._decoder.forward(batch, pool)  # [rows, hidden]
        first = 0
        for chunk in self._chunks:
            vector = self._wanted.get(chunk.request)
            if vector is not None:
                self._add(vector, chunk, hidden[first : first + len(chunk.trunk)])
            first += chunk.rows
        return hidden

    def _add(self, vector: Vector, chunk: Chunk, rows: Tensor) -> None:
        rows = rows[max(vector.done - chunk.start, 0) :].clone()  # [new rows, hidden]
        if not len(rows):
            return
        normed = torch.empty_like(rows)
        self._decoder.final_norm(rows, normed)
        if vector.mean:
            # one position after the other, whatever chunks they come in: the sum is the same for every way to cut a prompt
            before = normed.new_zeros((1, normed.shape[1]), dtype=torch.float64) if vector.total is None else vector.total[None]
            vector.total = torch.cat((before, normed.double())).cumsum(0)[-1]
        else:
            vector.total = normed[-1].double()
        vector.done += len(rows)
