"""What trained heads (arch/heads.py, model/heads) have in common: the target's two ends, the way in for states, and logits.

Owns the calls that whoever runs a head makes, the same as a Decoder's. Must not know what lies between, requests or sampling.
"""

from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.base.errors import CapacityError
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder, step_scratch
from slipstream.model.fuse import Fuse
from slipstream.model.linear import Linear
from slipstream.model.norm import Norm
from slipstream.model.scratch import Scratch
from slipstream.ops.dispatch import Kernels
from slipstream.ops.replay import Replay
from slipstream.weights.source import Weights


class Head(ABC):
    """A head with its weights packed and its scratch allocated.

    Args:
        head: what it is made of.
        weights: its parameters.
        target: the model that it guesses for; its embeddings and output layer serve the head too, where it has none of its own.
        kernels: who computes.
        max_rows: rows of the largest step.
        max_logit_rows: rows of the largest call of `logits`.
        max_len: positions that may occur.

    Attributes:
        spec: its layers, as a model.
        ahead: rows that come out for each row that goes in; the guesses of one row at depths 0, 1, ...
        records: see Decoder.
        apart: what comes out for a row at depth d is row number row + d * apart.
    """

    def __init__(
        self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, max_rows: int, max_logit_rows: int, max_len: int
    ):
        self.spec, self.max_len, self.ahead, self.apart = head.body, max_len, 1, max_rows
        hidden, outputs = head.body.hidden, head.outputs
        self._kernels, self._format = kernels, weights.as_stored
        self._fuse = Fuse(head, weights, self._format, target, kernels)
        self._norm = Norm(head.body, "norm", weights, kernels) if head.norm else None
        self._add = None if head.norm else kernels.add
        self._normed = head.normed
        own = outputs > 0 and head.file != "residual"
        self._head = Linear(weights, ["head"], False, self._format, kernels) if own else target.head
        self._places = _places(weights.get("head.ids"), head.body.vocab, kernels) if head.mapped else None  # [vocab]
        widths = {"state": head.width, "states": len(head.levels) * hidden} | ({"wide": 2 * hidden} if head.bottom.kind == "wide" else {})
        self._scratch = step_scratch(head.body, max_rows, kernels.device, **widths)
        ends = {"picked": head.width, "normed": hidden, "logits": head.body.vocab} | ({"some": outputs} if head.mapped else {})
        self._ends = Scratch(max_logit_rows, ends, device=kernels.device)
        self._logits = Replay(kernels, True)
        self.records = self._fuse.records
        self._forward: Replay

    @abstractmethod
    def pool_shape(self, pages: int, page_size: int) -> tuple[int, ...]:
        """Shape of the KV pool that `forward` takes, see Decoder.pool_shape."""

    @abstractmethod
    def out(self) -> Tensor:
        """Where everything comes out, whatever the number of rows. [ahead * max_rows, width]"""

    @abstractmethod
    def run(self, batch: Batch, pool: Tensor, buffers: dict[str, Tensor]) -> None:
        """All ops of `forward` but for bringing the states, in order; what comes out lies in `out`."""

    def forward(self, batch: Batch, pool: Tensor) -> Tensor:
        """Runs the rows, and writes their keys and values to the cache if there are any.

        Args:
            batch: the rows; its states are the target's [rows, levels * hidden], or what came out for the row before [rows, width].
            pool: keys and values, see `pool_shape`.

        Returns:
            `out`; valid until the next call.

        Raises:
            CapacityError: more rows than max_rows.
        """
        rows = batch.ids.shape[0]
        if rows > self._scratch.max_rows:
            raise CapacityError(f"step of {rows} rows: the head was made for max_rows={self._scratch.max_rows}; raise it")
        buffers, keys = self._scratch.rows(rows), batch.attention
        self.bring(batch.states)
        rows_in = (batch.ids, batch.positions, batch.slots, keys.request, keys.linear, keys.tail_start)
        inputs = (*rows_in, keys.tail_slots, keys.page_table, pool)
        self._forward.run(partial(self.run, batch, pool, buffers), rows, inputs, keys.tail_slots.shape[0])
        return self.out()

    def bring(self, states: Tensor) -> None:
        """Puts the states of the next pass where it reads them; see `forward`."""
        self._fuse.bring(states, self._scratch.rows(states.shape[0]))

    def ops(self, batch: Batch, pool: Tensor, every: Tensor, above: Tensor | None) -> Tensor:
        """See Decoder.ops.

        Args:
            above: rows of the pass before whose output is the state of each row now; None: states have been brought. [rows] int32
        """
        if above is not None:
            self._kernels.embed(above, self.out(), self._scratch.rows(every.shape[0])["state"])  # a copy that can be recorded
        self.read(batch, pool)
        return self.drawn(every)

    def read(self, batch: Batch, pool: Tensor) -> None:
        """All ops of `forward` for whoever records them; states have been brought."""
        self.run(batch, pool, self._scratch.rows(batch.ids.shape[0]))

    def drawn(self, rows: Tensor) -> Tensor:
        """All ops of `logits` likewise, on rows of what came out last."""
        self._run_logits(self.out(), rows)
        return self._ends.rows(rows.shape[0])["logits"]

    def logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Norm and the target's output layer on some rows only.

        Args:
            hidden: what `forward` returned.
            rows: which of them. [n] int32

        Returns:
            [n, vocab] fp32; valid until the next call.
        """
        count = rows.shape[0]
        self._logits.run(partial(self._run_logits, hidden, rows), count, (hidden, rows))
        return self._ends.rows(count)["logits"]

    def _run_logits(self, hidden: Tensor, rows: Tensor) -> None:
        buffers = self._ends.rows(rows.shape[0])
        read, logits = buffers["picked"], buffers["logits"]
        self._kernels.embed(rows, hidden, read)  # the same gather as of tokens
        if self._norm is not None and not self._normed:
            self._norm(read, buffers["normed"])
            read = buffers["normed"]
        self._head(read, logits if self._places is None else buffers["some"])
        if self._places is not None:  # the others cannot be drawn
            self._kernels.spread(buffers["some"], self._places, logits)

    def _close(self, stream: Tensor, pending: Tensor, free: Tensor) -> None:
        """What the last sub-layer still has to add goes to the stream, and the stream, normed, to `free`."""
        if self._norm is not None:
            self._norm(stream, free, pending)  # sometimes only for its addition, as in Decoder
        else:
            self._add(stream, pending)


def _places(ids: Tensor, vocab: int, kernels: Kernels) -> Tensor:
    """Row of an output layer for each token, -1 for those without one, from the token of each row."""
    places = torch.full((vocab,), -1, dtype=torch.int32)
    places[ids.cpu().long()] = torch.arange(len(ids), dtype=torch.int32)
    return places.to(kernels.device)


class Keyless(Head):
    """A head without keys and values: what it guesses from one place follows from the state there alone. See Head; what comes out lies in
    `_outs`, [ahead, max_rows, width]."""

    def __init__(self, head: HeadSpec, weights: Weights, target: Decoder, kernels: Kernels, *sizes: int):
        super().__init__(head, weights, target, kernels, *sizes)
        self.ahead = head.ahead
        self._outs = torch.zeros(head.ahead, self.apart, head.width, device=kernels.device)
        self._forward = Replay(kernels, self.records)

    def pool_shape(self, pages: int, page_size: int) -> tuple[int, ...]:
        return (0, 2, pages, 1, page_size, 1)

    def out(self) -> Tensor:
        return self._outs.flatten(0, 1)
