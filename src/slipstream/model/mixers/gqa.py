"""Grouped-query attention with rotary positions over the paged cache. Must not know norms, residuals or other layers."""

from torch import Tensor

from slipstream.arch.spec import AttentionSpec
from slipstream.model.batch import Batch
from slipstream.model.linear import Linear
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import KV
from slipstream.weights.source import Weights

ALL_POSITIONS = 0  # window argument of the attention op


def widths(spec: AttentionSpec) -> dict[str, int]:
    """Scratch buffers by width."""
    return {"qkv": (spec.heads + 2 * spec.kv_heads) * spec.head_dim, "attended": spec.heads * spec.head_dim}


class Mixer:
    """One attention sub-layer: o(attention(rope(qkv(x))))."""

    def __init__(self, spec: AttentionSpec, prefix: str, weights: Weights, format: str, kernels: Kernels):
        self._heads, self._scale = spec.heads, spec.head_dim**-0.5
        self._qkv = Linear(weights, [f"{prefix}.{part}" for part in "qkv"], spec.bias, format, kernels)
        self._o = Linear(weights, [f"{prefix}.o"], spec.bias, format, kernels)
        self._rope_write, self._attention = kernels.rope_write, kernels.attention

    def run(self, x: Tensor, out: Tensor, scratch: dict[str, Tensor], batch: Batch, kv: KV, rope: Tensor) -> None:
        """Writes the rows' keys and values to the cache, attends, and writes out [rows, hidden] from x [rows, hidden]."""
        qkv, attended = scratch["qkv"], scratch["attended"]
        self._qkv(x, qkv)
        self._rope_write(qkv, batch.positions, batch.slots, rope, kv, self._heads)
        self._attention(qkv, kv, batch.attention, self._heads, self._scale, ALL_POSITIONS, attended)
        self._o(attended, out)
