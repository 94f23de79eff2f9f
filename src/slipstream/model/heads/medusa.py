"""Medusa: a block per token ahead, all on one hidden state (Cai et al. 2024), which here knows the last token too; blockwise, where it
does not (Stern et al. 2018).

Owns the blocks. No block knows what the others guess, so one call makes all guesses, and there are no keys and values. Must not know
requests, sampling, or who guesses.
"""

from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.model import head as base
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.ffns.gated import Ffn
from slipstream.model.norm import Norm
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights


class Head(base.Keyless):
    """See model/head.py."""

    def __init__(self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, *sizes: int):
        super().__init__(head, weights, target, kernels, *sizes)
        ffn = self.spec.layers[0].ffn
        names = [f"layers.{number}.ffn" for number in range(head.depth)]
        norms = [Norm(self.spec, f"{name}.norm", weights, kernels) for name in names]
        self._blocks = list(zip(norms, (Ffn(ffn, name, weights, self._format, kernels) for name in names), strict=True))

    def run(self, batch: Batch, pool: Tensor, buffers: dict[str, Tensor]) -> None:
        stream, normed = buffers["stream"], buffers["normed"]
        self._fuse(batch.ids, stream, buffers)
        for (norm, ffn), whole in zip(self._blocks, self._outs, strict=True):
            out = whole[: len(stream)]
            norm(stream, normed)
            ffn.run(normed, out, buffers)
            self._kernels.add(out, stream)
