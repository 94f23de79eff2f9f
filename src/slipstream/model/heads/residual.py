"""Heads as Medusa published them: per token ahead a few x + silu(W x + b) on one hidden state and an output layer (Cai et al. 2024).

Owns the blocks, and which output layer serves a row. Must not know requests, sampling, or who guesses.
"""

import torch
from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.model import head as base
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.linear import Linear
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights


class Head(base.Keyless):
    """See model/head.py."""

    def __init__(self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, *sizes: int):
        super().__init__(head, weights, target, kernels, *sizes)
        self._blocks = [
            [Linear(weights, [f"blocks.{depth}.{block}"], True, self._format, kernels) for block in range(head.blocks)]
            for depth in range(head.depth)
        ]
        names = [[f"heads.{depth}"] for depth in range(head.depth)]
        self._heads = [Linear(weights, name, False, self._format, kernels) if head.outputs else target.head for name in names]

    def run(self, batch: Batch, pool: Tensor, buffers: dict[str, Tensor]) -> None:
        stream, inner = buffers["stream"], buffers["normed"]
        self._fuse(batch.ids, stream, buffers)
        for blocks, whole in zip(self._blocks, self._outs, strict=True):
            out = whole[: len(stream)].copy_(stream)
            for block in blocks:
                block(out, inner)
                out += torch.nn.functional.silu(inner)

    def logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """See model/head.py; each depth has an output layer of its own."""
        out, depths = self._ends.rows(rows.shape[0])["logits"], (rows // self.apart).tolist()
        for depth in sorted(set(depths)):
            own = torch.tensor([at for at, other in enumerate(depths) if other == depth], device=rows.device)
            part = torch.empty(len(own), out.shape[1], device=rows.device)
            self._heads[depth](hidden.index_select(0, rows[own]), part)
            out.index_copy_(0, own, part)
        return out
