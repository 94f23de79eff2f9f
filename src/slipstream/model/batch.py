"""Batch: the tensors of one step, rows of all requests one after the other. Must not know requests, plans or the cache."""

from dataclasses import dataclass

from torch import Tensor

from slipstream.ops.types import AttentionRows


@dataclass(slots=True)
class Batch:
    """What the decoder needs of a step. All int32, contiguous, but for `states`.

    Attributes:
        ids: token of each row. [rows]
        positions: its absolute position. [rows]
        slots: where its keys and values are written: page * page_size + offset. [rows]
        attention: which keys it sees; its `positions` are the ones above.
        states: hidden states of another model that go in beside the tokens, fp32; only heads (model/heads) read any. [rows, any]
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionRows
    states: Tensor | None = None
