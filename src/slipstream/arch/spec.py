"""ModelSpec: a decoder described by data alone.

Owns the description and the list of parameters that follows from it; loading, dummy weights, shape checks and memory
planning all walk that list. Must not know config.json (families do), checkpoints, or how a layer is computed.
"""

import math
from dataclasses import dataclass, replace

from slipstream.arch.rope import RopeSpec


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter of a model.

    Attributes:
        name: canonical name, for instance "layers.3.mixer.q.weight".
        shape: linear layers are [outputs, inputs].
        role: "embedding", "linear", "head", "router", "norm" or "bias". "head" is a linear layer, listed only if it is a tensor
            of its own; a tied head is a second, packed copy of the embedding that the decoder makes. Learned positions are an
            "embedding" too. A "router" is a small linear layer that stays fp32 in every format.
        routed: (k, n) of an expert's: a row uses k of n alike.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    routed: tuple[int, int] = (1, 1)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> list[TensorSpec]:
    out = [TensorSpec(f"{name}.weight", (outputs, inputs), "linear")]
    return [*out, TensorSpec(f"{name}.bias", (outputs,), "bias")] if bias else out


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Grouped-query attention over earlier positions (Ainslie et al. 2023; heads == kv_heads is the plain one).

    Attributes:
        heads, kv_heads: query heads, and key/value heads that they share evenly.
        head_dim: numbers per head, even; heads * head_dim need not be the hidden size.
        rope: position embedding of q and k.
        bias: whether q, k and v have one.
        o_bias: whether o has one.
        window: how many positions a row sees at most, its own included; 0 for all.
        scale: factor of the scores; None for head_dim ** -0.5.
        softcap: scores s become softcap * tanh(s / softcap); 0 for none.
        qk_norm: RMSNorm of q and k before rope: "head" each head by itself, "full" all heads together, "" none.
        sinks: each head has a score that takes part in the softmax and has no value (Xiao et al. 2024, learned).
        inputs: width of what q, k and v read; 0 for the hidden size.
        kind: the mixer that computes it, a file in model/mixers.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: RopeSpec
    bias: bool = False
    o_bias: bool = False
    window: int = 0
    scale: float | None = None
    softcap: float = 0.0
    qk_norm: str = ""
    sinks: bool = False
    inputs: int = 0
    kind: str = "gqa"

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `mixer.` on."""
        wide, narrow, inputs = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.inputs or hidden
        out = [
            *_linear("q", wide, inputs, self.bias),
            *_linear("k", narrow, inputs, self.bias),
            *_linear("v", narrow, inputs, self.bias),
            *_linear("o", hidden, wide, self.o_bias),
        ]
        if self.qk_norm:
            sizes = (wide, narrow) if self.qk_norm == "full" else (self.head_dim, self.head_dim)
            out += [TensorSpec(f"{part}_norm.weight", (size,), "norm") for part, size in zip("qk", sizes, strict=True)]
        return [*out, TensorSpec("sinks", (self.heads,), "bias")] if self.sinks else out

    def buffers(self) -> dict[str, int]:
        """What the mixer needs per row between its ops: name -> numbers."""
        return {"qkv": (self.heads + 2 * self.kv_heads) * self.head_dim, "attended": self.heads * self.head_dim}


@dataclass(frozen=True, slots=True)
class MlaSpec:
    """Multi-head latent attention (DeepSeek-AI 2024): keys and values of all heads are made from one short vector per position.

    The cache holds what they are made into, a full key and value per head; a value is filled up with zeros to the width of a key.

    Attributes:
        heads: of queries, keys and values.
        plain_dim: numbers of a query or key head that are not rotated, even.
        rope_dim: those that are, even; a key's are the same for all heads.
        value_dim: numbers of a value head, at most plain_dim + rope_dim.
        q_rank: width of the vector that queries are made from; 0: they are made from x.
        kv_rank: width of the vector that keys and values are made from.
        rope: position embedding, `rope.rotated` is rope_dim.
        scale: factor of the scores.
        bias: whether the layers that read x, except q, and o have one.
        norm_eps: of the norms of the two vectors.
        window: 0, all positions are seen.
        kind: the mixer that computes it, a file in model/mixers.
    """

    heads: int
    plain_dim: int
    rope_dim: int
    value_dim: int
    q_rank: int
    kv_rank: int
    rope: RopeSpec
    scale: float
    bias: bool = False
    norm_eps: float = 1e-6
    window: int = 0
    kind: str = "mla"

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        """Numbers of a head in the cache."""
        return self.plain_dim + self.rope_dim

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `mixer.` on."""
        wide, out = self.heads * self.head_dim, []
        if self.q_rank:
            out += [*_linear("q_a", self.q_rank, hidden, self.bias), TensorSpec("q_a_norm.weight", (self.q_rank,), "norm")]
        out += _linear("q", wide, self.q_rank or hidden, False)
        out += _linear("kv_a", self.kv_rank, hidden, self.bias)
        out += _linear("k_rope", self.rope_dim, hidden, self.bias)
        out.append(TensorSpec("kv_a_norm.weight", (self.kv_rank,), "norm"))
        out += _linear("kv", self.heads * (self.plain_dim + self.value_dim), self.kv_rank, False)
        return [*out, *_linear("o", hidden, self.heads * self.value_dim, self.bias)]

    def buffers(self) -> dict[str, int]:
        """What the mixer needs per row between its ops: name -> numbers."""
        wide = self.heads * self.head_dim
        made = {"q": wide, "kv": self.heads * (self.plain_dim + self.value_dim), "qkv": 3 * wide, "attended": wide}
        short = {"kv_a": self.kv_rank, "k_rope": self.rope_dim} | ({"q_a": self.q_rank} if self.q_rank else {})
        return made | short | {"values": self.heads * self.value_dim}


@dataclass(frozen=True, slots=True)
class FfnSpec:
    """Gated feed-forward layer, down(activation(gate(x)) * up(x)) (Shazeer 2020).

    Attributes:
        width: inner size.
        bias: whether gate, up and down have one.
        activation: "silu", "gelu" or "gelu_tanh".
        kind: the layer that computes it, a file in model/ffns.
    """

    width: int
    bias: bool = False
    activation: str = "silu"
    kind: str = "gated"

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `ffn.` on."""
        return [
            *_linear("gate", self.width, hidden, self.bias),
            *_linear("up", self.width, hidden, self.bias),
            *_linear("down", hidden, self.width, self.bias),
        ]

    def buffers(self) -> dict[str, int]:
        """What the layer needs per row between its ops: name -> numbers."""
        return {"gate_up": 2 * self.width, "gated": self.width}


@dataclass(frozen=True, slots=True)
class PlainFfnSpec:
    """Feed-forward layer of the first transformers, down(activation(up(x))).

    Attributes:
        width: inner size.
        bias: whether up and down have one.
        activation: "gelu" or "gelu_tanh".
        kind: the layer that computes it, a file in model/ffns.
    """

    width: int
    bias: bool = True
    activation: str = "gelu"
    kind: str = "plain"

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `ffn.` on."""
        return [*_linear("up", self.width, hidden, self.bias), *_linear("down", hidden, self.width, self.bias)]

    def buffers(self) -> dict[str, int]:
        """What the layer needs per row between its ops: name -> numbers."""
        return {"up": self.width}


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """Which experts a row goes to and with what weights (docs/numerics.md, `route`).

    Attributes:
        experts: how many there are.
        chosen: how many a row goes to.
        scoring: "softmax" or "sigmoid" of the logits.
        groups, kept: experts stand in groups of equal size; a row goes to the `kept` best groups only. 1, 1 for no groups.
        group_best: a group is as good as the sum of this many best of it.
        normed: the weights of a row are divided by their sum.
        scale: factor of the weights.
        correction: whether a bias per expert is added to the scores for choosing only (DeepSeek-AI 2024).
    """

    experts: int
    chosen: int
    scoring: str = "softmax"
    groups: int = 1
    kept: int = 1
    group_best: int = 1
    normed: bool = True
    scale: float = 1.0
    correction: bool = False


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """Mixture of experts (Shazeer et al. 2017): a weighted sum of a few of many gated feed-forward layers, and shared ones.

    Attributes:
        router: who goes where.
        hidden: width of the residual stream.
        width: inner size of an expert.
        shared: inner size of the part that every row uses, 0 for none.
        shared_gate: the shared part is multiplied by a sigmoid of the row.
        bias: whether the router and the experts have one.
        activation: "silu", "gelu", "gelu_tanh", or "clamped", see docs/numerics.md, `gated_clamped`.
        limit, slope: of "clamped".
        kind: the layer that computes it, a file in model/ffns.
    """

    router: RouterSpec
    hidden: int
    width: int
    shared: int = 0
    shared_gate: bool = False
    bias: bool = False
    activation: str = "silu"
    limit: float = 0.0
    slope: float = 1.0
    kind: str = "moe"

    def tensors(self, hidden: int) -> list[TensorSpec]:
        """Parameters, named from the layer's `ffn.` on."""
        count, routed = self.router.experts, (self.router.chosen, self.router.experts)
        out = [TensorSpec("router.weight", (count, hidden), "router")]
        if self.bias:
            out.append(TensorSpec("router.bias", (count,), "bias"))
        if self.router.correction:
            out.append(TensorSpec("router.correction", (count,), "bias"))
        for number in range(count):
            parts = FfnSpec(self.width, self.bias).tensors(hidden)
            out += [TensorSpec(f"experts.{number}.{part.name}", part.shape, part.role, routed) for part in parts]
        if self.shared:
            out += [TensorSpec(f"shared.{part.name}", part.shape, part.role) for part in FfnSpec(self.shared).tensors(hidden)]
        if self.shared_gate:
            out.append(TensorSpec("shared_gate.weight", (1, hidden), "router"))
        return out

    def buffers(self) -> dict[str, int]:
        """What the layer needs per row between its ops: name -> numbers."""
        inner = max(self.width, self.shared)
        out = {"scores": self.router.experts, "experts": self.router.chosen, "shares": self.router.chosen, "gathered": self.hidden}
        return out | {"inner": 2 * inner, "activated": inner, "part": self.hidden} | ({"gate": 1} if self.shared_gate else {})


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer: x += mixer(norm(x)); x += ffn(norm(x)).

    Attributes:
        mixer, ffn: its two sub-layers.
        pre_norm: each sub-layer reads the normed stream; otherwise the stream itself.
        post_norm: what a sub-layer returns is normed before it is added.
        parallel: the ffn reads the same stream as the mixer: x += mixer(norm(x)) + ffn(norm(x)).
        one_norm: of a parallel layer: both read through the mixer's norm.
        fed: the mixer has no norm of its own: it reads the stream, or what is made for it (trained heads, arch/heads.py).
    """

    mixer: AttentionSpec | MlaSpec
    ffn: FfnSpec | PlainFfnSpec | MoeSpec
    pre_norm: bool = True
    post_norm: bool = False
    parallel: bool = False
    one_norm: bool = False
    fed: bool = False

    def norms(self) -> list[str]:
        """Names of the norms around its sub-layers."""
        pre = [] if self.fed else ["mixer.norm"]
        pre += [] if self.one_norm else ["ffn.norm"]
        return (pre if self.pre_norm else []) + (["mixer.post_norm", "ffn.post_norm"] if self.post_norm else [])


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only language model.

    Attributes:
        name: what to call it in messages: the folder's or the shape's name.
        family: file in arch/families that knows how its checkpoints name the tensors.
        hidden: width of the residual stream.
        vocab: rows of the embedding table and of the head.
        max_len: positions it was made for.
        norm_eps: added to the mean square (or the variance) in norms.
        tied: the head uses the embedding table.
        layers: from the bottom up; all share one KV pool, so kv_heads and head_dim agree.
        norm: "rms" (Zhang & Sennrich 2019) or "layer", with a bias (Ba et al. 2016).
        embed_scale: factor of the embeddings.
        positions: rows of a learned position embedding, 0 for none.
        head_bias: whether the head has a bias.
        logit_scale: factor of the logits.
        logit_softcap: logits z become logit_softcap * tanh(z / logit_softcap); 0 for none.
    """

    name: str
    family: str
    hidden: int
    vocab: int
    max_len: int
    norm_eps: float
    tied: bool
    layers: tuple[LayerSpec, ...]
    norm: str = "rms"
    embed_scale: float = 1.0
    positions: int = 0
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float = 0.0

    @property
    def kv_heads(self) -> int:
        return self.layers[0].mixer.kv_heads

    @property
    def head_dim(self) -> int:
        return self.layers[0].mixer.head_dim

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The different position embeddings of the layers; each has a table of its own."""
        return tuple(dict.fromkeys(layer.mixer.rope for layer in self.layers))

    @property
    def windows(self) -> tuple[int, ...]:
        """The different windows of the layers, without 0."""
        return tuple(sorted({layer.mixer.window for layer in self.layers} - {0}))

    def parameters(self) -> int:
        """How many numbers the model holds; a tied head counts once."""
        return sum(tensor.size for tensor in tensors(self))


def tensors(spec: ModelSpec) -> list[TensorSpec]:
    """Every parameter of the model in the order of use, under its canonical name."""
    out = [TensorSpec("embed.weight", (spec.vocab, spec.hidden), "embedding")]
    if spec.positions:
        out.append(TensorSpec("positions.weight", (spec.positions, spec.hidden), "embedding"))
    for number, layer in enumerate(spec.layers):
        for norm in layer.norms():
            out += _norm(spec, f"layers.{number}.{norm}")
        for part, parameters in (("mixer", layer.mixer.tensors(spec.hidden)), ("ffn", layer.ffn.tensors(spec.hidden))):
            out.extend(replace(p, name=f"layers.{number}.{part}.{p.name}") for p in parameters)
    out += _norm(spec, "norm")
    if not spec.tied:
        out.append(TensorSpec("head.weight", (spec.vocab, spec.hidden), "head"))
    if spec.head_bias:
        out.append(TensorSpec("head.bias", (spec.vocab,), "bias"))
    return out


def _norm(spec: ModelSpec, name: str) -> list[TensorSpec]:
    out = [TensorSpec(f"{name}.weight", (spec.hidden,), "norm")]
    return [*out, TensorSpec(f"{name}.bias", (spec.hidden,), "bias")] if spec.norm == "layer" else out
