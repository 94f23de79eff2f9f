"""Trial: a head is run once on a few tokens of its model before it may guess, so that one that cannot work is refused at load, with the
reason, and is not just never right. Owns what is tried and what is refused. Must not know drafters.
"""

from dataclasses import replace

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.model.batch import Batch, whole
from slipstream.model.decoder import Decoder
from slipstream.model.head import Head
from slipstream.model.heads.joining import Head as Joining
from slipstream.ops.dispatch import Kernels
from slipstream.worker.pool import KVPool

TOKENS = 8


def try_head(head: Head | Joining, target: Decoder, kernels: Kernels, kv: str, page_size: int, rows: int) -> None:
    """Runs the model on a few tokens, and the head on the states that come out.

    Args:
        target: watches what the head reads.
        kv: type of the caches, which are made for this and given back.
        rows: that both can take in one call.

    Raises:
        CheckpointError: what comes out of either is not finite; says where.
    """
    count = min(TOKENS, rows + 1, head.max_len)
    read, pages = count - 1, -(-(TOKENS + head.ahead) // page_size)
    room = pages * page_size
    ids = torch.arange(1, room + 1, dtype=torch.int32, device=kernels.device)[None] % target.spec.vocab
    every = torch.arange(read, dtype=torch.int32, device=kernels.device)
    pool = KVPool(target.pool_shape(pages, page_size), kv, kernels).tensor
    hidden = target.forward(whole(ids[:, :read], room, page_size), pool)
    states, name = target.states(hidden, every), f"{head.spec.name}: tried on {read} tokens of {target.spec.name}"
    _check(states, f"{name}: the model's own states are not finite; its checkpoint is damaged")
    if not isinstance(head, Joining):
        batch = replace(whole(ids[:, 1:count], room, page_size), states=states)  # a token beside the state before it
        out, first = head.forward(batch, KVPool(head.pool_shape(pages, page_size), kv, kernels).tensor), read - 1
    else:
        batch = replace(_behind(ids, read, head, room, page_size), states=states[-1:])
        out, first = head.forward(batch, pool[head.joins :]), 0
    last = torch.tensor([first + depth * head.apart for depth in range(head.ahead)], dtype=torch.int32, device=kernels.device)
    best = head.logits(out, last).amax(1)  # a token that it never guesses has -inf; one that is not a number goes through
    damaged = "its file is damaged, or it was trained for another model; take another head"
    _check(out[last.long()], f"{name}: what comes out of its layers is not finite; {damaged}")
    _check(best, f"{name}: its guesses are not finite; {damaged}")


def _behind(ids: Tensor, read: int, head: Joining, room: int, page_size: int) -> Batch:
    """The rows that join behind the text's first `read` tokens, in the places of the next ones. ids [1, room]"""
    batch = whole(ids, room, page_size)
    own, keys = slice(read, read + head.ahead), batch.attention
    positions = keys.positions[own].clamp(max=head.max_len - 1)
    attention = replace(
        keys, request=keys.request[own], positions=positions, linear=positions + 1, tail_start=keys.tail_start[: head.ahead + 1]
    )
    return Batch(batch.ids[own], positions, batch.slots[own], attention)


def _check(numbers: Tensor, message: str) -> None:
    if not bool(numbers.isfinite().all()):
        raise CheckpointError(message)
