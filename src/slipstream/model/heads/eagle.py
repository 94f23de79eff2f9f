"""EAGLE: one decoder layer that goes on from a model's hidden state, and then from its own output (Li et al. 2024).

Owns the layer and what lies below it; embeddings and output layer are the target's. A row is a token and the state of the position
before it. Must not know requests, sampling, or who guesses.
"""

from functools import partial

from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.base.errors import CapacityError
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder, step_scratch
from slipstream.model.fuse import Fuse
from slipstream.model.layer import Layer
from slipstream.model.norm import Norm
from slipstream.model.replay import Replay
from slipstream.model.rope import rope_table
from slipstream.model.scratch import Scratch
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import KV
from slipstream.weights.source import Weights


class Head:
    """An EAGLE head with its weights packed and its scratch allocated.

    Args:
        head: what it is made of.
        weights: its parameters.
        target: the model that it guesses for.
        kernels: who computes.
        max_rows: rows of the largest step.
        max_logit_rows: rows of the largest call of `logits`.
        max_len: positions that may occur.
    """

    STATES = True  # its batches bring hidden states

    def __init__(
        self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, max_rows: int, max_logit_rows: int, max_len: int
    ):
        self.spec, self.max_len = head.body, max_len
        spec, format = head.body, weights.as_stored
        self._target, self._kernels = target, kernels
        self._fuse = Fuse(head, weights, format, target, kernels)
        rope = rope_table(spec.ropes[0], spec.head_dim, max_len).to(kernels.device)
        self._layer = Layer(spec, 0, weights, format, kernels, rope)
        self._norm = Norm(spec, "norm", weights, kernels)
        self._scratch = step_scratch(spec, max_rows, kernels.device, state=spec.hidden, states=len(head.levels) * spec.hidden)
        ends = {"picked": spec.hidden, "normed": spec.hidden, "logits": spec.vocab}
        self._ends = Scratch(max_logit_rows, ends, device=kernels.device)
        self._forward, self._logits = Replay(kernels, self._layer.records), Replay(kernels, True)

    def pool_shape(self, pages: int, page_size: int) -> tuple[int, ...]:
        """See Decoder.pool_shape."""
        return (1, 2, pages, self.spec.kv_heads, page_size, self.spec.head_dim)

    def forward(self, batch: Batch, pool: Tensor) -> Tensor:
        """Runs the rows through the layer and writes their keys and values to the cache.

        Args:
            batch: the rows; its states are the target's [rows, levels * hidden], or what came out for the row before [rows, hidden].
            pool: keys and values, see `pool_shape`.

        Returns:
            What comes out, [rows, hidden]; valid until the next call.

        Raises:
            CapacityError: more rows than max_rows.
        """
        rows = batch.ids.shape[0]
        if rows > self._scratch.max_rows:
            raise CapacityError(f"step of {rows} rows: the head was made for max_rows={self._scratch.max_rows}; raise it")
        buffers, keys = self._scratch.rows(rows), batch.attention
        self._fuse.bring(batch.states, buffers)
        rows_in = (batch.ids, batch.positions, batch.slots, keys.request, keys.linear, keys.tail_start)
        inputs = (*rows_in, keys.tail_slots, keys.page_table, pool)
        self._forward.run(partial(self._run, batch, pool), rows, inputs)
        return buffers["stream"]

    def _run(self, batch: Batch, pool: Tensor) -> None:
        """All ops of `forward`, in order."""
        buffers = self._scratch.rows(batch.ids.shape[0])
        stream = buffers["stream"]
        self._fuse(batch.ids, stream, buffers)
        pending, free = self._layer.run(stream, None, buffers["normed"], buffers, batch, KV(pool[0, 0], pool[0, 1]))
        self._norm(stream, free, pending)  # only for its addition

    def logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """See Decoder.logits."""
        count = rows.shape[0]
        whole = self._scratch.rows(self._scratch.max_rows)["stream"]
        source = whole if hidden.data_ptr() == whole.data_ptr() else hidden
        self._logits.run(partial(self._run_logits, source, rows), count, (source, rows))
        return self._ends.rows(count)["logits"]

    def _run_logits(self, hidden: Tensor, rows: Tensor) -> None:
        buffers = self._ends.rows(rows.shape[0])
        self._kernels.embed(rows, hidden, buffers["picked"])
        self._norm(buffers["picked"], buffers["normed"])
        self._target.head(buffers["normed"], buffers["logits"])
