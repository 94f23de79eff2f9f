"""Batch: the tensors of one step, rows of all requests one after the other. Must not know requests, plans or the cache."""

from dataclasses import dataclass

from torch import Tensor

from slipstream.ops.types import AttentionRows


@dataclass(slots=True)
class Batch:
    """What the decoder needs of a step. All int32, contiguous.

    Attributes:
        ids: token of each row. [rows]
        positions: its absolute position. [rows]
        slots: where its keys and values are written: page * page_size + offset. [rows]
        attention: which keys it sees; its `positions` are the ones above.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionRows
