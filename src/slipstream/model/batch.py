"""Batch: the tensors of one step, rows of all requests one after the other. Must not know requests, plans or the cache."""

from dataclasses import dataclass

import torch
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
        states: hidden states that go in beside the tokens, or in their place where rows join a model at a layer, fp32; only heads
            (model/heads) and `Decoder.part` read any. [rows, any]
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionRows
    states: Tensor | None = None


def whole(texts: Tensor, room: int, page_size: int) -> Batch:
    """Texts to be read at once and from their beginning, each on pages of its own.

    Args:
        texts: tokens. [texts, length]
        room: tokens that a text has room for, so many pages: the pages of the second begin behind those of the first.
    """
    (count, length), device = texts.shape, texts.device
    request = torch.arange(count, device=device).repeat_interleave(length)
    positions = torch.arange(length, device=device).repeat(count)
    pages = torch.arange(count * room // page_size, device=device).view(count, -1)
    none = torch.zeros(count * length + 1, device=device)
    attention = AttentionRows(*(part.int() for part in (request, positions, positions + 1, none, none[:1], pages)))
    return Batch(ids=texts.flatten().int(), positions=attention.positions, slots=(request * room + positions).int(), attention=attention)
