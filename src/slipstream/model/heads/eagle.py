"""EAGLE: one decoder layer that goes on from a model's hidden state, and then from its own output (Li et al. 2024).

Owns the layer. A row is a token and the state of the position before it. Must not know requests, sampling, or who guesses.
"""

from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.model import head as base
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.layer import Layer
from slipstream.model.rope import rope_table
from slipstream.ops.dispatch import Kernels
from slipstream.ops.replay import Replay
from slipstream.ops.types import KV
from slipstream.weights.source import Weights


class Head(base.Head):
    """See model/head.py."""

    def __init__(self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, *sizes: int):
        super().__init__(head, weights, target, kernels, *sizes)
        rope = rope_table(self.spec.ropes[0], self.spec.head_dim, self.max_len).to(kernels.device)
        self._layer = Layer(self.spec, 0, weights, self._format, kernels, rope)
        self.records = self.records and self._layer.records
        self._forward, self._out = Replay(kernels, self.records), "stream"

    def pool_shape(self, pages: int, page_size: int) -> tuple[int, ...]:
        return (1, 2, pages, self.spec.kv_heads, page_size, self.spec.head_dim)

    def out(self) -> Tensor:
        return self._scratch.rows(self._scratch.max_rows)[self._out]

    def run(self, batch: Batch, pool: Tensor, buffers: dict[str, Tensor]) -> None:
        stream = buffers["stream"]
        given = self._fuse(batch.ids, stream, buffers)
        kv = KV(pool[0, 0], pool[0, 1])
        pending, free = self._layer.run(stream, None, buffers["normed"], buffers, batch, kv, given)
        self._close(stream, pending, free)
        if self._normed:
            self._out = "normed" if free is buffers["normed"] else "update"
