"""THE decoder: embeds rows, runs the layers of a ModelSpec on them, and makes logits of the rows that need some.

Owns the residual stream, the scratch arena and what lies below and above the layers; every op is a kernel in out-parameter
style, so that a step can be recorded. Must not know requests, sampling, where weights come from, or how a layer computes.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from slipstream.arch.spec import ModelSpec
from slipstream.base.errors import CapacityError, InputError
from slipstream.cost import WeightFormat
from slipstream.model.batch import Batch
from slipstream.model.embedding import Embedding
from slipstream.model.layer import Layer
from slipstream.model.linear import Linear, common
from slipstream.model.norm import Norm
from slipstream.model.rope import rope_table
from slipstream.model.scratch import Scratch
from slipstream.ops.dispatch import Kernels
from slipstream.ops.replay import Replay
from slipstream.ops.types import KV, Norming
from slipstream.weights.source import Weights


class Decoder:
    """A model with its weights packed and its scratch allocated. One step at a time.

    Args:
        spec: the model.
        weights: its parameters; asked once each, while this is made.
        kernels: who computes.
        max_rows: rows of the largest step.
        max_logit_rows: rows of the largest call of `logits`.
        format: linear weight format, a name in quant/formats; None keeps weights as stored.
        max_len: positions that may occur; None: all that the model was made for.

    Attributes:
        format: the linear weight format in use.
        max_len: positions below this may occur.
        final_norm: the norm before the head, called with x and out, both [rows, hidden].
        records: whether its ops only call kernels, so that a tape can repeat them.
        levels: of the hidden states that `states` returns; none unless `watch` asked for some.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        kernels: Kernels,
        max_rows: int,
        max_logit_rows: int,
        *,
        format: WeightFormat | None = None,
        max_len: int | None = None,
    ):
        if max_len is not None and not 1 <= max_len <= spec.max_len:
            raise InputError(f"max_len={max_len}: {spec.name} was made for up to {spec.max_len} positions")
        self.spec, self.format = spec, format or weights.as_stored
        self.max_len = max_len or spec.max_len
        self._kernels = kernels
        self._embed = Embedding(weights, self.format, kernels)
        self._positions = weights.get("positions.weight") if spec.positions else None  # [positions, hidden]
        self._ropes = {rope: rope_table(rope, spec.head_dim, self.max_len).to(kernels.device) for rope in spec.ropes}
        self._layers = [
            Layer(spec, number, weights, self.format, kernels, self._ropes[layer.mixer.rope]) for number, layer in enumerate(spec.layers)
        ]
        self.final_norm = Norm(spec, "norm", weights, kernels)
        self._head = self._embed.layer if spec.tied and not spec.head_bias else None
        if self._head is None:
            self._head = Linear(weights, ["embed" if spec.tied else "head"], spec.head_bias, self.format, kernels, bias_of="head")
        self._scale = kernels.scale if spec.embed_scale != 1 or spec.logit_scale != 1 else None
        self._softcap = kernels.softcap if spec.logit_softcap else None
        self._joins = False  # whether rows come as hidden states
        self._allocate(max_rows, max_logit_rows)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of all activations and of the rope tables, allocated once."""
        return self._scratch.bytes + self._head_scratch.bytes + sum(table.nbytes for table in self._ropes.values())

    def pool_shape(self, pages: int, page_size: int) -> tuple[int, ...]:
        """Shape of the KV pool that `forward` takes: [layers, 2, pages, kv_heads, page_size, head_dim]."""
        return (len(self.spec.layers), 2, pages, self.spec.kv_heads, page_size, self.spec.head_dim)

    def part(self, layers: slice, max_rows: int, max_logit_rows: int, max_len: int) -> "Decoder":
        """Some layers of the model, its norm and its head as a model of their own, with other scratch and the same weights.
        Where these are not the first ones rows join it: they come as hidden states (`Batch.states`).

        Args:
            layers: which, at least one; for the others see Decoder; max_len is at most that of this one.
        """
        out = copy(self)
        out.spec, out._layers, out.max_len = replace(self.spec, layers=self.spec.layers[layers]), self._layers[layers], max_len
        if layers.start:
            out._joins, out._positions = True, None
        out._allocate(max_rows, max_logit_rows)
        return out

    def _allocate(self, max_rows: int, max_logit_rows: int) -> None:
        """Scratch, and all that is known of steps that ran on it: nothing."""
        spec, kernels = self.spec, self._kernels
        self._scratch = step_scratch(spec, max_rows, kernels.device, self._layers)
        head, scaled = {"picked": spec.hidden, "normed": spec.hidden, "logits": spec.vocab}, spec.logit_scale != 1
        types = {} if scaled else {"normed": self._head.reads}
        self._head_scratch = Scratch(max_logit_rows, head, device=kernels.device, types=types)
        self.records = all(layer.records for layer in self._layers)
        self._forward = Replay(kernels, self.records)
        self._logits = Replay(kernels, True)
        self._pool: Tensor | None = None
        self._kv: list[KV] = []
        self.levels: tuple[int, ...] = ()
        self._taps: dict[int, str] = {}  # layer -> buffer for what it reads

    def watch(self, levels: Sequence[int]) -> None:
        """From now on `forward` keeps hidden states, for `states`. Called before the first step; without it nothing is kept.

        Args:
            levels: which: i is what layer i reads (0: the embeddings), the number of layers what the final norm reads, one more what
                the head reads. Also the order in which `states` returns them.

        Raises:
            InputError: the model has no such level.
        """
        last, most, device = len(self.spec.layers), self._scratch.max_rows, self._kernels.device
        for level in levels:
            if not 0 <= level <= last + 1:
                raise InputError(f"levels={list(levels)}: {level} must be between 0 and {last + 1}, {self.spec.name} has {last} layers")
        self.levels, self._taps = tuple(levels), {level: f"level {level}" for level in levels if level < last}
        self._tapped = Scratch(most, {name: self.spec.hidden for name in self._taps.values()}, device=device)
        self._every = torch.arange(most, dtype=torch.int32, device=device)

    def states(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Hidden states of some rows of the last step.

        Args:
            hidden: what `forward` returned. [any, hidden]
            rows: which of them. [n] int32

        Returns:
            [n, levels * hidden], the levels side by side as `watch` named them; a copy.
        """
        return self.joined([self._level(level, hidden).index_select(0, rows) for level in self.levels])

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """States as a watcher wants them, from what was kept of each level, which is written over. [n, hidden] each"""
        for level, part in zip(self.levels, parts, strict=True):
            if level > len(self.spec.layers):
                self.final_norm(part.clone(), part)
        return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)

    def keep(self, every: Tensor, parts: Sequence[Tensor]) -> None:
        """Keeps all levels of what `ops` ran, for `joined`; an op of its own, for whoever records several passes as one.

        Args:
            every: 0, 1, 2, ... [rows] int32
            parts: where to, for each level. [rows, hidden]
        """
        for level, part in zip(self.levels, parts, strict=True):
            self._kernels.embed(every, self._level(level, self._scratch.rows(self._scratch.max_rows)["stream"]), part)

    def _level(self, level: int, hidden: Tensor) -> Tensor:
        return self._tapped.rows(self._tapped.max_rows)[self._taps[level]] if level in self._taps else hidden

    def forward(self, batch: Batch, pool: Tensor) -> Tensor:
        """Runs the rows through all layers and writes their keys and values to the cache.

        Args:
            batch: the rows of the step.
            pool: keys and values of all layers, see `KVPool`.

        Returns:
            The residual stream before the final norm, [rows, hidden]; valid until the next call.

        Raises:
            CapacityError: more rows than max_rows.
        """
        rows = batch.ids.shape[0]
        if rows > self._scratch.max_rows:
            raise CapacityError(f"step of {rows} rows: the decoder was made for max_rows={self._scratch.max_rows}; raise it")
        self._bind(pool)
        if self._joins:
            self._scratch.rows(rows)["stream"].copy_(batch.states)
        keys = batch.attention
        rows_in = (batch.ids, batch.positions, batch.slots, keys.request, keys.linear, keys.tail_start)
        inputs = (*rows_in, keys.tail_slots, keys.page_table, pool)
        self._forward.run(partial(self._run, batch), rows, inputs, keys.tail_slots.shape[0], keys.company is not None)
        return self._scratch.rows(rows)["stream"]

    def ops(self, batch: Batch, pool: Tensor, every: Tensor, above: Tensor | None) -> Tensor:
        """All ops of `forward` and then of `logits` on the same rows, for whoever records several passes as one.

        Args:
            batch, pool: see `forward`.
            every: 0, 1, 2, ... [rows] int32
            above: rows of the pass before that these follow, if they do; a whole model does not mind.

        Returns:
            Where the logits will be. [rows, vocab]
        """
        self._bind(pool)
        self._run(batch)
        self._run_head(self._scratch.rows(self._scratch.max_rows)["stream"], every)
        return self._head_scratch.rows(every.shape[0])["logits"]

    def _bind(self, pool: Tensor) -> None:
        if pool is not self._pool:
            self._pool, self._kv = pool, [KV(layer[0], layer[1]) for layer in pool]

    def _run(self, batch: Batch) -> None:
        """All ops of `forward`, in order."""
        buffers = self._scratch.rows(batch.ids.shape[0])
        stream, free = buffers["stream"], buffers["normed"]
        pending = None  # what the last sub-layer adds to the stream; the next norm does it, if it has not done so
        if not self._joins:
            self.embed(batch.ids, stream)
        if self._positions is not None:
            pending = buffers["update"]
            self._kernels.embed(batch.positions, self._positions, pending)
        for number, (layer, kv, behind) in enumerate(zip(self._layers, self._kv, [*self._layers[1:], None], strict=True)):
            if number in self._taps:
                self._tap(number, stream, pending)
            pending, free = layer.run(stream, pending, free, buffers, batch, kv, behind=behind)
        self.final_norm(stream, free, pending)  # only for its addition: the rows that need logits are normed there

    def _tap(self, number: int, stream: Tensor, pending: Tensor | Norming | None) -> None:
        """Keeps what layer `number` reads. Beside the ops of the step, which stay as they are, so that watching changes no text."""
        rows, whole = stream.shape[0], self._scratch.rows(self._scratch.max_rows)["stream"]
        kept = self._tapped.rows(rows)[self._taps[number]]
        self._kernels.embed(self._every[:rows], whole, kept)  # a copy that can be recorded
        if isinstance(pending, Tensor):
            self._kernels.add(kept, pending)

    def logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Final norm and head on some rows only.

        Args:
            hidden: what `forward` returned. [any, hidden]
            rows: which of them. [n] int32

        Returns:
            [n, vocab] fp32; valid until the next call.

        Raises:
            CapacityError: more rows than max_logit_rows.
        """
        count = rows.shape[0]
        if count > self._head_scratch.max_rows:
            raise CapacityError(f"logits of {count} rows: the decoder was made for max_logit_rows={self._head_scratch.max_rows}; raise it")
        whole = self._scratch.rows(self._scratch.max_rows)["stream"]
        source = whole if hidden.data_ptr() == whole.data_ptr() else hidden  # the stream has one size on the tape, whatever the step
        self._logits.run(partial(self._run_head, source, rows), count, (source, rows))
        return self._head_scratch.rows(count)["logits"]

    def _run_head(self, hidden: Tensor, rows: Tensor) -> None:
        """All ops of `logits`, in order."""
        buffers = self._head_scratch.rows(rows.shape[0])
        picked, normed, logits = buffers["picked"], buffers["normed"], buffers["logits"]
        self._kernels.embed(rows, hidden, picked)  # the same gather as of tokens
        self.final_norm(picked, normed)
        self.head(normed, logits)

    def embed(self, ids: Tensor, out: Tensor) -> None:
        """Embeddings of tokens. ids [rows] -> out [rows, hidden]"""
        self._embed(ids, out)
        if self.spec.embed_scale != 1:
            self._scale(out, self.spec.embed_scale)

    def head(self, normed: Tensor, logits: Tensor) -> None:
        """The output layer. normed [rows, hidden], changed where logits are scaled -> logits [rows, vocab]"""
        if self.spec.logit_scale != 1:  # here, where there are fewer numbers than in the logits
            self._scale(normed, self.spec.logit_scale)
        self._head(normed, logits)
        if self._softcap is not None:
            self._softcap(logits, self.spec.logit_softcap)


def step_scratch(spec: ModelSpec, max_rows: int, device: str, layers: Sequence[Layer] = (), **more: int) -> Scratch:
    """Buffers of a step: the stream and what goes between sub-layers, and `more` (name -> width); the insides of mixers and ffns overlay
    one another. What all `layers` read in another type than fp32 lies in it."""
    groups: dict[str, dict[str, int]] = {}
    for layer in spec.layers:
        for place, part in (("mixer", layer.mixer), ("ffn", layer.ffn)):
            group = groups.setdefault(f"{place}.{part.kind}", {})
            for name, width in part.buffers().items():
                group[name] = max(width, group.get(name, 0))
    hidden = {name: spec.hidden for name in ("stream", "normed", "update")}
    names = {name for layer in layers for name in layer.types}
    types = {name: common(layer.types[name] for layer in layers if name in layer.types) for name in names}
    return Scratch(max_rows, hidden | more, list(groups.values()), device, types)
