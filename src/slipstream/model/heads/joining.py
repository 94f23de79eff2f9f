"""Joining: rows that join the model at a layer, one per token ahead. FIRP makes each from the state there by a map of its own;
Speculative Streaming by one map with small changes, and an embedding of its depth (arch/heads.py).

Owns what goes in. From there on they run through the model's own layers, norm and output layer (`Decoder.part`), see the text's keys and
values, which they do not touch, and those of the rows before them. Must not know requests, sampling, or who guesses.
"""

from dataclasses import replace

import torch
from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.fuse import Fuse
from slipstream.model.linear import Linear
from slipstream.model.scratch import Scratch
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights


class Merged:
    """`Weights` of streams as if each had a map of its own: the one of all and its change, added up."""

    def __init__(self, weights: Weights):
        self._weights, self.as_stored, self.shelf = weights, weights.as_stored, None

    def get(self, name: str) -> Tensor:
        """"maps.1.weight" [hidden, 2 * hidden]"""
        depth = name.split(".")[1]
        whole, up, down = (self._weights.get(f"{part}.weight") for part in ("map", f"up.{depth}", f"down.{depth}"))
        return (whole.float() + up.float() @ down.float()).to(whole.dtype)

    def stored(self, name: str) -> None:
        """See `Weights.stored`: these are plain numbers."""


class Head:
    """See model/head.py; it needs no layers, norm or output layer.

    Args:
        max_rows: places of one call; from each come `ahead` rows.

    Attributes:
        spec: the layers that the rows run through, as a model.
        joins: the first of these.
        ahead: rows of a place, of depths 0, 1, ...
        apart: what comes out at depth d is d * apart behind that at depth 0.
    """

    def __init__(
        self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, max_rows: int, max_logit_rows: int, max_len: int
    ):
        hidden, self.ahead, self.apart, self.max_len, self.joins = head.body.hidden, head.depth, 1, max_len, head.joins
        self._rest = target.part(slice(head.joins, None), max_rows * head.depth, max_logit_rows, max_len)
        self.spec = replace(self._rest.spec, name=head.body.name)
        self.logits, self.pool_shape = self._rest.logits, self._rest.pool_shape
        self._fuse = Fuse(head, weights, weights.as_stored, target, kernels)
        depths, firp = range(head.depth), head.kind == "firp"
        maps = weights if firp else Merged(weights)
        self._maps = Linear(maps, [f"maps.{depth}" for depth in depths], False, weights.as_stored, kernels)
        self._streams = None if firp else torch.stack([weights.get(f"streams.{depth}") for depth in depths])  # [ahead, hidden]
        widths = dict.fromkeys(("state", "stream", "normed", "update"), hidden)
        more = {"states": len(head.levels) * hidden, "wide": 2 * hidden, "mapped": head.depth * hidden}
        self._scratch = Scratch(max_rows, widths | more, device=kernels.device)

    def forward(self, batch: Batch, pool: Tensor) -> Tensor:
        """Runs the rows of some places.

        Args:
            batch: `ahead` rows of one place after the other, with the last token of the text as their token; states are the model's at
                `joins` for the token before it, one per place. [places, hidden]
            pool: keys and values of the layers from `joins` on, see `pool_shape`.

        Returns:
            What the final norm reads, [rows, hidden]; valid until the next call.
        """
        places = batch.states.shape[0]
        buffers = self._scratch.rows(places)
        self._fuse.bring(batch.states, buffers)
        known = self._fuse(batch.ids[:: self.ahead].contiguous(), buffers["stream"], buffers)
        self._maps(known, buffers["mapped"])
        state, change = buffers["stream"][:, None], buffers["mapped"].view(places, -1, self.spec.hidden)
        if self._streams is not None:
            change = change + self._streams
        rows = state + state.square().mean(-1, keepdim=True).sqrt() * change  # [places, ahead, hidden]
        return self._rest.forward(replace(batch, states=rows.flatten(0, 1)), pool)
