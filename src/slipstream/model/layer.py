"""Layer: a mixer and an ffn on the residual stream. Owns the order of norms, sub-layers and additions; not how any computes."""

import torch
from torch import Tensor

from slipstream.arch.spec import ModelSpec
from slipstream.base import registry
from slipstream.cost import WeightFormat
from slipstream.model.batch import Batch
from slipstream.model.linear import common
from slipstream.model.norm import Norm
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import KV, Norming
from slipstream.weights.source import Weights

MIXERS = "slipstream.model.mixers"
FFNS = "slipstream.model.ffns"


class Layer:
    """One layer of a model.

    Args:
        spec: the model.
        number: which of its layers.
        weights: whom to ask for parameters.
        format: linear weight format.
        kernels: who computes.
        rope: table of the layer's position embedding. [max_len, 2, head_dim / 2]

    Attributes:
        records: whether `run` only calls kernels, so that a tape can repeat it.
        types: buffer -> type of those that only linear layers read, "normed" among them; the stream and what is added to it are fp32.
    """

    def __init__(self, spec: ModelSpec, number: int, weights: Weights, format: WeightFormat, kernels: Kernels, rope: Tensor):
        layer, prefix = spec.layers[number], f"layers.{number}"
        norms = {name: Norm(spec, f"{prefix}.{name}", weights, kernels) for name in layer.norms()}
        self._before_mixer, self._before_ffn = norms.get("mixer.norm"), norms.get("ffn.norm")
        self._after_mixer, self._after_ffn = norms.get("mixer.post_norm"), norms.get("ffn.post_norm")
        self._mixer = registry.load(MIXERS, layer.mixer.kind).Mixer(layer.mixer, spec, f"{prefix}.mixer", weights, format, kernels)
        self._ffn = registry.load(FFNS, layer.ffn.kind).Ffn(layer.ffn, f"{prefix}.ffn", weights, format, kernels)
        self.records = self._mixer.RECORDS and self._ffn.RECORDS
        exchanged = self._after_mixer is not None or self._after_ffn is not None  # "normed" takes what is added to the stream, too
        reads = torch.float32 if exchanged else common([self._mixer.reads, self._ffn.reads])
        self.types = {"normed": reads, **self._mixer.types, **self._ffn.types}
        halves = all(norm is not None and norm.halves for norm in (self._before_mixer, self._before_ffn))
        halves = halves and not (exchanged or layer.parallel)
        self._may_fuse = halves and hasattr(self._mixer, "fuses") and hasattr(self._ffn, "fuses")
        self._parallel, self._rope = layer.parallel, rope
        self._add = kernels.add if layer.parallel or not layer.pre_norm else None

    def fuses(self, rows: int) -> bool:
        """Whether, for so many rows, the linear layers beside its norms add to the stream and norm it (Norming)."""
        return self._may_fuse and self._mixer.fuses(rows) and self._ffn.fuses(rows)

    def run(
        self,
        stream: Tensor,
        pending: Tensor | Norming | None,
        free: Tensor,
        scratch: dict[str, Tensor],
        batch: Batch,
        kv: KV,
        given: Tensor | None = None,
        behind: "Layer | None" = None,
    ) -> tuple[Tensor | Norming, Tensor]:
        """Runs the rows through the layer.

        Args:
            stream: the residual stream, changed in place. [rows, hidden]
            pending: what the sub-layer before still has to add to it, its buffer is used again; or, where it has done so, the norm of
                this layer that it has begun. [rows, hidden]
            free: a buffer. [rows, hidden]
            scratch: buffers of mixers and ffns.
            batch, kv: the rows and the layer's cache.
            given: what the mixer reads in place of the stream, which nothing is pending for then. [rows, inputs]
            behind: the layer that runs next, whose norm this one may begin.

        Returns:
            (what is pending now, a free buffer): the two buffers, in the one order or the other, or a norm in both.
        """
        rows, update = len(stream), pending if isinstance(pending, Tensor) else scratch["update"]
        fuses = free.dtype is torch.bfloat16 and self.fuses(rows)
        x = self._read(self._before_mixer, stream, pending, free) if given is None else given
        pending = self._before_ffn.within(stream, free, update) if fuses else update
        self._mixer.run(x, pending, scratch, batch, kv, self._rope)
        if self._after_mixer is not None:
            self._after_mixer(update, free)
            update, free = free, update
            pending = update
        if self._parallel:
            if self._before_ffn is not None:
                self._before_ffn(stream, free)
            self._add(stream, pending)
            x = free
        else:
            x = self._read(self._before_ffn, stream, pending, free)
        begins = fuses and behind is not None and behind.fuses(rows)
        pending = behind._before_mixer.within(stream, free, update) if begins else update
        self._ffn.run(x, pending, scratch)
        if self._after_ffn is not None:
            self._after_ffn(update, free)
            pending, free = free, update
        return pending, free

    def _read(self, norm: Norm | None, stream: Tensor, pending: Tensor | Norming | None, normed: Tensor) -> Tensor | Norming:
        """What a sub-layer reads: the stream with what is pending added to it, normed where there is a norm."""
        if isinstance(pending, Norming):
            return pending
        if norm is not None:
            norm(stream, normed, pending)
            return normed
        if pending is not None:
            self._add(stream, pending)
        return stream
