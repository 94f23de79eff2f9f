"""Multi-head latent attention, its keys and values made in full before they are cached. Must not know norms, residuals or other layers.

A head is laid out for `rope_write`: each half begins with its half of the rotated pairs, the numbers that stand still follow. What
moves numbers between buffers are copies, which are exact on every device.
"""

from torch import Tensor

from slipstream.arch.spec import MlaSpec, ModelSpec
from slipstream.cost import WeightFormat
from slipstream.model.batch import Batch
from slipstream.model.linear import Linear, common, plain
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import KV
from slipstream.weights.source import Weights


class Mixer:
    """One sub-layer of latent attention."""

    RECORDS = False  # copies between ops are torch's

    def __init__(self, spec: MlaSpec, model: ModelSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        def linear(name: str, bias: bool) -> Linear:
            return Linear(weights, [f"{prefix}.{name}"], bias, format, kernels)

        self._spec, self._norm = spec, kernels.norm_slices
        self._rope_write, self._attention = kernels.rope_write, kernels.attention
        self._q_a = linear("q_a", spec.bias) if spec.q_rank else None
        self._q_a_norm = weights.get(f"{prefix}.q_a_norm.weight") if spec.q_rank else None
        self._kv_a_norm = weights.get(f"{prefix}.kv_a_norm.weight")
        self._q, self._kv = linear("q", False), linear("kv", False)
        self._kv_a, self._k_rope, self._o = linear("kv_a", spec.bias), linear("k_rope", spec.bias), linear("o", spec.bias)

        self.reads = common(linear.reads for linear in (self._q_a or self._q, self._kv_a, self._k_rope))
        self.types = {"values": plain(self._o.reads)}

    def run(self, x: Tensor, out: Tensor, scratch: dict[str, Tensor], batch: Batch, kv: KV, rope: Tensor) -> None:
        """Writes the rows' keys and values to the cache, attends, and writes out [rows, hidden] from x [rows, hidden]."""
        spec, read = self._spec, x
        if self._q_a is not None:
            read = scratch["q_a"]
            self._q_a(x, read)
            self._norm(read, self._q_a_norm, 0, spec.q_rank, spec.norm_eps)
        self._q(read, scratch["q"])
        self._kv_a(x, scratch["kv_a"])
        self._norm(scratch["kv_a"], self._kv_a_norm, 0, spec.kv_rank, spec.norm_eps)
        self._kv(scratch["kv_a"], scratch["kv"])
        self._k_rope(x, scratch["k_rope"])
        self._lay_out(scratch)
        self._rope_write(scratch["qkv"], batch.positions, batch.slots, rope, kv, spec.heads)
        self._attention(scratch["qkv"], kv, batch.attention, spec.heads, spec.scale, 0, scratch["attended"])
        attended = scratch["attended"].view(-1, spec.heads, spec.head_dim)
        scratch["values"].view(-1, spec.heads, spec.value_dim).copy_(attended[..., : spec.value_dim])
        self._o(scratch["values"], out)

    def _lay_out(self, scratch: dict[str, Tensor]) -> None:
        """Queries, keys and values of all heads as `rope_write` wants them."""
        spec = self._spec
        heads, plain, half = spec.heads, spec.plain_dim, spec.rope_dim // 2
        q, k, v = scratch["qkv"].view(-1, 3, heads, spec.head_dim).unbind(1)
        made = scratch["kv"].view(-1, heads, plain + spec.value_dim)
        q.copy_(scratch["q"].view(-1, heads, spec.head_dim))
        k = k.unflatten(-1, (2, -1))  # [rows, heads, 2, head_dim / 2]
        k[..., :half] = scratch["k_rope"].view(-1, 1, 2, half)
        k[..., half:] = made[..., :plain].unflatten(-1, (2, -1))
        v[..., : spec.value_dim] = made[..., plain:]
        v[..., spec.value_dim :] = 0
