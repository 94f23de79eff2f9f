"""THE decoder: embeds rows, runs the layers of a ModelSpec on them, and makes logits of the rows that need some.

Owns the residual stream, the scratch arena and the order of ops; every op is a kernel in out-parameter style, so that a
step can be recorded. Must not know requests, sampling, where weights come from, or how a mixer or ffn computes.
"""

from torch import Tensor

from slipstream.arch.spec import LayerSpec, ModelSpec
from slipstream.base import registry
from slipstream.base.errors import CapacityError, InputError
from slipstream.model.batch import Batch
from slipstream.model.linear import Linear
from slipstream.model.rope import rope_table
from slipstream.model.scratch import Scratch
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import KV
from slipstream.weights.source import Weights

MIXERS = "slipstream.model.mixers"
FFNS = "slipstream.model.ffns"


class Layer:
    """A mixer and an ffn with their norms."""

    def __init__(self, spec: LayerSpec, number: int, weights: Weights, format: str, kernels: Kernels):
        prefix = f"layers.{number}"
        self.mixer_norm = weights.get(f"{prefix}.mixer.norm.weight")
        self.mixer = registry.load(MIXERS, spec.mixer.kind).Mixer(spec.mixer, f"{prefix}.mixer", weights, format, kernels)
        self.ffn_norm = weights.get(f"{prefix}.ffn.norm.weight")
        self.ffn = registry.load(FFNS, spec.ffn.kind).Ffn(spec.ffn, f"{prefix}.ffn", weights, format, kernels)


class Decoder:
    """A model with its weights packed and its scratch allocated. One step at a time.

    Args:
        spec: the model.
        weights: its parameters; asked once each, while this is made.
        kernels: who computes.
        max_rows: rows of the largest step.
        max_logit_rows: rows of the largest call of `logits`.
        format: linear weight format, a name in quant/formats; None keeps it as stored.
        max_len: positions that may occur; None: all that the model was made for.

    Attributes:
        format: the linear weight format in use.
        max_len: positions below this may occur.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        kernels: Kernels,
        max_rows: int,
        max_logit_rows: int,
        *,
        format: str | None = None,
        max_len: int | None = None,
    ):
        if max_len is not None and not 1 <= max_len <= spec.max_len:
            raise InputError(f"max_len={max_len}: {spec.name} was made for up to {spec.max_len} positions")
        self.spec, self.format = spec, format or weights.format
        self.max_len = max_len or spec.max_len
        self._kernels = kernels
        self._table = weights.get("embed.weight")  # [vocab, hidden]
        self._layers = [Layer(layer, number, weights, self.format, kernels) for number, layer in enumerate(spec.layers)]
        self._norm = weights.get("norm.weight")
        self._head = Linear(weights, ["embed" if spec.tied else "head"], False, self.format, kernels)
        self._rope = rope_table(spec.rope, spec.head_dim, self.max_len).to(kernels.device)
        self._scratch = _step_scratch(spec, max_rows, kernels.device)
        head = {"picked": spec.hidden, "normed": spec.hidden, "logits": spec.vocab}
        self._head_scratch = Scratch(max_logit_rows, head, device=kernels.device)
        self._pool: Tensor | None = None
        self._kv: list[KV] = []

    @property
    def scratch_bytes(self) -> int:
        """Bytes of all activations and of the rope table, allocated once."""
        return self._scratch.bytes + self._head_scratch.bytes + self._rope.nbytes

    def pool_shape(self, pages: int, page_size: int) -> tuple[int, ...]:
        """Shape of the KV pool that `forward` takes: [layers, 2, pages, kv_heads, page_size, head_dim]."""
        return (len(self.spec.layers), 2, pages, self.spec.kv_heads, page_size, self.spec.head_dim)

    def forward(self, batch: Batch, pool: Tensor) -> Tensor:
        """Runs the rows through all layers and writes their keys and values to the cache.

        Args:
            batch: the rows of the step.
            pool: keys and values of all layers, see `pool_shape`; fp32 or bf16.

        Returns:
            The residual stream before the final norm, [rows, hidden]; valid until the next call.

        Raises:
            CapacityError: more rows than max_rows.
        """
        rows = batch.ids.shape[0]
        if rows > self._scratch.max_rows:
            raise CapacityError(f"step of {rows} rows: the decoder was made for max_rows={self._scratch.max_rows}; raise it")
        if pool is not self._pool:
            self._pool, self._kv = pool, [KV(layer[0], layer[1]) for layer in pool]
        buffers = self._scratch.rows(rows)
        stream, normed, update = buffers["stream"], buffers["normed"], buffers["update"]
        norm, eps, rope = self._kernels.norm, self.spec.norm_eps, self._rope
        self._kernels.embed(batch.ids, self._table, stream)
        pending = None  # what the last sub-layer adds to the stream; the next norm does it
        for layer, kv in zip(self._layers, self._kv, strict=True):
            norm(stream, layer.mixer_norm, eps, normed, pending)
            layer.mixer.run(normed, update, buffers, batch, kv, rope)
            norm(stream, layer.ffn_norm, eps, normed, update)
            layer.ffn.run(normed, update, buffers)
            pending = update
        norm(stream, self._norm, eps, normed, pending)  # only for its addition: the rows that need logits are normed there
        return stream

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
        buffers = self._head_scratch.rows(count)
        picked, normed, logits = buffers["picked"], buffers["normed"], buffers["logits"]
        self._kernels.embed(rows, hidden, picked)  # the same gather as of tokens
        self._kernels.norm(picked, self._norm, self.spec.norm_eps, normed)
        self._head(normed, logits)
        return logits


def _step_scratch(spec: ModelSpec, max_rows: int, device: str) -> Scratch:
    """Buffers of a step: the stream and what goes between sub-layers; the insides of mixers and ffns overlay one another."""
    mixers: dict[str, dict[str, int]] = {}
    for layer in spec.layers:
        for package, part in ((MIXERS, layer.mixer), (FFNS, layer.ffn)):
            group = mixers.setdefault(f"{package}.{part.kind}", {})
            for name, width in registry.load(package, part.kind).widths(part).items():
                group[name] = max(width, group.get(name, 0))
    hidden = {name: spec.hidden for name in ("stream", "normed", "update")}
    return Scratch(max_rows, hidden, list(mixers.values()), device)
