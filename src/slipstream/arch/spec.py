"""ModelSpec: a decoder described by data alone.

Owns the description and the list of parameters that follows from it; loading, dummy weights, shape checks and memory
planning all walk that list. Must not know config.json (families do), checkpoints, or how a layer is computed.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter of a model.

    Attributes:
        name: canonical name, for instance "layers.3.mixer.q.weight".
        shape: linear layers are [outputs, inputs].
        role: "embedding", "linear", "head", "norm" or "bias". "head" is a linear layer, listed only if it is a tensor of
            its own; a tied head is a second, packed copy of the embedding that the decoder makes.
    """

    name: str
    shape: tuple[int, ...]
    role: str

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> list[TensorSpec]:
    out = [TensorSpec(f"{name}.weight", (outputs, inputs), "linear")]
    return [*out, TensorSpec(f"{name}.bias", (outputs,), "bias")] if bias else out


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention over all earlier positions (Ainslie et al. 2023; heads == kv_heads is the plain one).

    Attributes:
        heads, kv_heads: query heads, and key/value heads that they share evenly.
        head_dim: numbers per head, even; heads * head_dim need not be the hidden size.
        bias: whether q, k, v and o have one.
        kind: the mixer that computes it, a file in model/mixers.
    """

    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    kind: str = "gqa"

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `mixer.` on."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            TensorSpec("norm.weight", (hidden,), "norm"),
            *_linear("q", wide, hidden, self.bias),
            *_linear("k", narrow, hidden, self.bias),
            *_linear("v", narrow, hidden, self.bias),
            *_linear("o", hidden, wide, self.bias),
        ]


@dataclass(frozen=True, slots=True)
class FfnSpec:
    """Gated feed-forward layer, down(silu(gate(x)) * up(x)) (Shazeer 2020).

    Attributes:
        width: inner size.
        bias: whether gate, up and down have one.
        kind: the layer that computes it, a file in model/ffns.
    """

    width: int
    bias: bool = False
    kind: str = "gated"

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `ffn.` on."""
        return [
            TensorSpec("norm.weight", (hidden,), "norm"),
            *_linear("gate", self.width, hidden, self.bias),
            *_linear("up", self.width, hidden, self.bias),
            *_linear("down", hidden, self.width, self.bias),
        ]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer: x += mixer(norm(x)); x += ffn(norm(x))."""

    mixer: AttentionSpec
    ffn: FfnSpec


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Context extension of Llama 3.1: slow frequencies are divided by `factor`, fast ones kept, a ramp between.

    Attributes:
        factor: divisor of the frequencies whose wavelength exceeds original_len / low_freq_factor positions.
        low_freq_factor, high_freq_factor: bounds of the ramp, in turns over the original context.
        original_len: context of the first training stage, in positions.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_len: int


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) over half-split pairs (i, i + head_dim / 2)."""

    theta: float
    scaling: Llama3Scaling | None = None

    def frequencies(self, head_dim: int) -> list[float]:
        """Radians per position of each pair, in double precision. [head_dim / 2]"""
        base = [self.theta ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
        return base if self.scaling is None else [self._stretched(frequency, self.scaling) for frequency in base]

    @staticmethod
    def _stretched(frequency: float, scaling: Llama3Scaling) -> float:
        turns = scaling.original_len * frequency / (2 * math.pi)
        keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = min(1.0, max(0.0, keep))
        return frequency * (keep + (1 - keep) / scaling.factor)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only language model.

    Attributes:
        name: what to call it in messages: the folder's or the shape's name.
        family: file in arch/families that knows how its checkpoints name the tensors.
        hidden: width of the residual stream.
        vocab: rows of the embedding table and of the head.
        max_len: positions it was made for.
        norm_eps: added to the mean square in RMSNorm (Zhang & Sennrich 2019).
        tied: the head uses the embedding table.
        rope: position embedding of all layers.
        layers: from the bottom up; all share one KV pool, so kv_heads and head_dim agree.
    """

    name: str
    family: str
    hidden: int
    vocab: int
    max_len: int
    norm_eps: float
    tied: bool
    rope: RopeSpec
    layers: tuple[LayerSpec, ...]

    @property
    def kv_heads(self) -> int:
        return self.layers[0].mixer.kv_heads

    @property
    def head_dim(self) -> int:
        return self.layers[0].mixer.head_dim

    def parameters(self) -> int:
        """How many numbers the model holds; a tied head counts once."""
        return sum(tensor.size for tensor in tensors(self))


def tensors(spec: ModelSpec) -> list[TensorSpec]:
    """Every parameter of the model in the order of use, under its canonical name."""
    out = [TensorSpec("embed.weight", (spec.vocab, spec.hidden), "embedding")]
    for number, layer in enumerate(spec.layers):
        for part, parameters in (("mixer", layer.mixer.tensors(spec.hidden)), ("ffn", layer.ffn.tensors(spec.hidden))):
            out.extend(TensorSpec(f"layers.{number}.{part}.{p.name}", p.shape, p.role) for p in parameters)
    out.append(TensorSpec("norm.weight", (spec.hidden,), "norm"))
    if not spec.tied:
        out.append(TensorSpec("head.weight", (spec.vocab, spec.hidden), "head"))
    return out
