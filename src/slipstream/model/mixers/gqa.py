"""Grouped-query attention with rotary positions over the paged cache. Must not know norms, residuals or other layers."""

from functools import partial

import torch
from torch import Tensor

from slipstream.arch.spec import AttentionSpec, ModelSpec
from slipstream.cost import WeightFormat
from slipstream.model.batch import Batch
from slipstream.model.linear import Linear, plain
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import KV, Norming
from slipstream.weights.source import Weights


class Mixer:
    """One attention sub-layer: o(attention(rope(qkv(x)))), q and k normed before rope where the model has it so."""

    RECORDS = True

    def __init__(self, spec: AttentionSpec, model: ModelSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        self._heads, self._window = spec.heads, spec.window
        self._scale = spec.head_dim**-0.5 if spec.scale is None else spec.scale
        self._qkv = Linear(weights, [f"{prefix}.{part}" for part in "qkv"], spec.bias, format, kernels)
        self._o = Linear(weights, [f"{prefix}.o"], spec.o_bias, format, kernels)
        self._rope_write = kernels.rope_write
        self._attention = partial(kernels.attention_softcap, cap=spec.softcap) if spec.softcap else kernels.attention
        if spec.sinks:
            self._attention = partial(kernels.attention_sinks, sinks=weights.get(f"{prefix}.sinks"))
        self._eps = model.norm_eps
        self.reads, self.types = self._qkv.reads, {"attended": plain(self._o.reads)}
        self._norm_slices = kernels.norm_slices if spec.qk_norm else None
        self._slices = _slices(spec, prefix, weights) if spec.qk_norm else []

    def fuses(self, rows: int) -> bool:
        """Whether x and out may be Normings for so many rows."""
        return self._qkv.fuses(rows) and self._o.fuses(rows)

    def run(self, x: Tensor | Norming, out: Tensor | Norming, scratch: dict[str, Tensor], batch: Batch, kv: KV, rope: Tensor) -> None:
        """Writes the rows' keys and values to the cache, attends, and writes out [rows, hidden] from x [rows, hidden]."""
        qkv, attended = scratch["qkv"], scratch["attended"]
        self._qkv(x, qkv)
        for weight, start, size in self._slices:
            self._norm_slices(qkv, weight, start, size, self._eps)
        self._rope_write(qkv, batch.positions, batch.slots, rope, kv, self._heads)
        self._attention(qkv, kv, batch.attention, self._heads, self._scale, self._window, attended)
        self._o(attended, out)


def _slices(spec: AttentionSpec, prefix: str, weights: Weights) -> list[tuple[Tensor, int, int]]:
    """(weight, first column, columns normed together) of each call of `norm_slices` on a row of q, k, v."""
    q, k = weights.get(f"{prefix}.q_norm.weight"), weights.get(f"{prefix}.k_norm.weight")
    if spec.qk_norm == "full":
        return [(q, 0, len(q)), (k, len(q), len(k))]
    return [(torch.cat([q.repeat(spec.heads), k.repeat(spec.kv_heads)]), 0, spec.head_dim)]
