"""HeadSpec: small layers on a model's hidden states that guess its next tokens, described by data alone.

Owns their config.json and the list of parameters that follows from it. What such a head does not bring it takes from the model that it
was trained for (its target): the embedding table, the output layer. Must not know how any of it is computed, nor how others store
theirs (arch/published.py).

    eagle     x = A norm(embedding of a token) + B norm(state of the position before); one decoder layer on x, with keys and values of its
              own; what comes out is the state for the next guess (Li et al. 2024; the two norms after DeepSeek-AI 2024)
    medusa    x as above, for the last token only; the guess at depth d is read off x + ffn_d(norm_d(x)) (after Cai et al. 2024)
    blockwise the same on the state alone (after Stern et al. 2018)
    mtp       as eagle, but what goes on is what the output layer reads (DeepSeek-AI 2024, multi-token prediction)
    redrafter r = silu(W embedding of a token + U r + b), 0 before the first; a few z + silu(V z + c) on the state and r side by side; the
              state is the same for all guesses (Cheng et al. 2024). Ours norm what goes in, and add what comes out to the state before the
              target's output layer; published ones have an output layer of their own
    residual  heads as Medusa published them: the guess at depth d is read off the state alone, x + silu(W x + b), by an output layer of
              its own
    firp      rows that join the target at a layer: for each depth d s + |s| W_d (norm(embedding of the last token) and norm(s) side by
              side), s being the state there and |s| the root of its mean square; they run through the layers from that one on, see the
              text and those before them, and the guesses are read off by the target's own norm and output layer (after FIRP, 2024,
              where the token is not known)
    streaming the same with one map for all depths, of which each has a low-rank change, and an embedding of the depth,
              s + |s| ((W + B_d A_d) (the same) + p_d) (after Speculative Streaming, Bhendawade et al. 2024, where there is p_d alone,
              and the target has low-rank changes)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slipstream.arch.common import NAMES
from slipstream.arch.detect import config_to_spec
from slipstream.arch.fields import Fields
from slipstream.arch.names import checkpoint_name
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.base.errors import CheckpointError, InputError
from slipstream.files.safetensors import read_json

KINDS = ("blockwise", "eagle", "firp", "medusa", "mtp", "redrafter", "streaming")
BLOCKS = 2  # of a redrafter that is made here
RANK = 32  # of what tells the streams of streaming apart
JOINING = "joining"
FUSED = {"eagle3": "eagle"}  # what is trained as another kind of head that reads several levels
FORMS = {"blockwise": "medusa", "mtp": "eagle", "firp": JOINING, "streaming": JOINING}  # kinds that another's file computes
PREFIX = "model."  # of the names that a whole model has; a head is none


@dataclass(frozen=True, slots=True)
class Bottom:
    """How a token's embedding e and a state s become what a head's layers read.

    Attributes:
        kind: "normed": A norm(e) + B norm(s); "plain": A e + B s + b (EAGLE); "wide": norm(e) and norm(s) side by side, which the layer's
            q, k and v read, or the maps of joining rows, while the stream is s (EAGLE-3); "state": s alone.
        bias: of "plain".
        normed_stream: of "wide": the stream is norm(s).
    """

    kind: str = "normed"
    bias: bool = False
    normed_stream: bool = False


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A head.

    Attributes:
        kind: one of KINDS, the drafter that guesses with it.
        levels: hidden states of the target that it reads: i is what layer i reads, the number of layers what the final norm reads, one
            more what the output layer reads.
        depth: tokens that it was trained to guess ahead; medusa and blockwise cannot guess further.
        body: its layers, as a model: of eagle one layer, of these two only the width and activation of the ffn are used.
        form: what computes it, a file in model/heads; "" for that of `kind`.
        bottom: what its layers read.
        norm: whether what comes out is normed before the output layer.
        normed: whether the next guess goes on from what is normed.
        embeds: whether it has an embedding table of its own.
        outputs: rows of its own output layer, of "residual" one per depth; 0: it takes the target's.
        mapped: the rows of its output layer stand for some of the target's tokens only, which are listed beside it.
        blocks: of "residual" and "redrafter": how many x + silu(W x + b) stand on each other.
    """

    kind: str
    levels: tuple[int, ...]
    depth: int
    body: ModelSpec
    form: str = ""
    bottom: Bottom = Bottom()
    norm: bool = True
    normed: bool = False
    embeds: bool = False
    outputs: int = 0
    mapped: bool = False
    blocks: int = 0

    @property
    def file(self) -> str:
        """Its file in model/heads."""
        return self.form or FORMS.get(self.kind, self.kind)

    @property
    def ahead(self) -> int:
        """Tokens that it guesses from one place."""
        return self.depth if self.file in ("medusa", "residual", JOINING) else 1

    @property
    def joins(self) -> int:
        """The layer of the target from which on its rows run with the target's own; 0 if they do not."""
        return self.levels[-1] if self.file == JOINING else 0

    @property
    def cached(self) -> bool:
        """Whether it has keys and values."""
        return self.file == "eagle"

    @property
    def width(self) -> int:
        """Numbers of what the next guess goes on from, and of what its own output layer reads."""
        return self.body.hidden * (2 if self.file == "redrafter" else 1)

    def tensors(self) -> list[TensorSpec]:
        """Every parameter in the order of use, under its canonical name. Those of role "ids" are whole numbers."""
        hidden = self.body.hidden
        out = [TensorSpec("embed.weight", (self.body.vocab, hidden), "embedding")] if self.embeds else []
        layers = {"residual": self._residual, "redrafter": self._recurrent, JOINING: self._maps}.get(self.file, self._layers)
        out += self._bottom() + layers()
        if self.norm:
            out.append(TensorSpec("norm.weight", (hidden,), "norm"))
        if self.outputs and self.file != "residual":
            out.append(TensorSpec("head.weight", (self.outputs, self.width), "linear"))
        return [*out, TensorSpec("head.ids", (self.outputs,), "ids")] if self.mapped else out

    def _bottom(self) -> list[TensorSpec]:
        hidden, out = self.body.hidden, []
        if self.bottom.kind in ("normed", "wide"):
            out = [TensorSpec(f"{name}.weight", (hidden,), "norm") for name in ("embed_norm", "state_norm")]
        if len(self.levels) > 1:
            out.append(TensorSpec("join.weight", (hidden, len(self.levels) * hidden), "linear"))
        if self.bottom.kind in ("normed", "plain"):
            out += [TensorSpec(f"{name}.weight", (hidden, hidden), "linear") for name in ("fuse_embed", "fuse_state")]
        return [*out, TensorSpec("fuse_embed.bias", (hidden,), "bias")] if self.bottom.bias else out

    def _layers(self) -> list[TensorSpec]:
        hidden, layer, out = self.body.hidden, self.body.layers[0], []
        for number in range(1 if self.cached else self.depth):
            parts = {"ffn": layer.ffn.tensors(hidden)}
            if self.cached:
                parts = {"mixer": layer.mixer.tensors(hidden)} | parts
            for part, parameters in parts.items():
                if f"{part}.norm" in layer.norms():
                    out.append(TensorSpec(f"layers.{number}.{part}.norm.weight", (hidden,), "norm"))
                out += [replace(p, name=f"layers.{number}.{part}.{p.name}") for p in parameters]
        return out

    def _recurrent(self) -> list[TensorSpec]:
        hidden, wide = self.body.hidden, self.width
        norms = [TensorSpec(f"{name}.weight", (hidden,), "norm") for name in ("embed_norm", "state_norm")] if self.norm else []
        out = [*norms, *(TensorSpec(f"rnn_{part}.weight", (hidden, hidden), "linear") for part in ("token", "state"))]
        out.append(TensorSpec("rnn_state.bias", (hidden,), "bias"))
        for block in range(self.blocks):
            out += [TensorSpec(f"blocks.{block}.weight", (wide, wide), "linear"), TensorSpec(f"blocks.{block}.bias", (wide,), "bias")]
        return [*out, TensorSpec("down.weight", (hidden, wide), "linear")] if self.norm else out

    def _residual(self) -> list[TensorSpec]:
        hidden, out = self.body.hidden, []
        for depth in range(self.depth):
            for block in range(self.blocks):
                out.append(TensorSpec(f"blocks.{depth}.{block}.weight", (hidden, hidden), "linear"))
                out.append(TensorSpec(f"blocks.{depth}.{block}.bias", (hidden,), "bias"))
            if self.outputs:
                out.append(TensorSpec(f"heads.{depth}.weight", (self.outputs, hidden), "linear"))
        return out

    def _maps(self) -> list[TensorSpec]:
        hidden, depths = self.body.hidden, range(self.depth)
        if self.kind == "firp":
            return [TensorSpec(f"maps.{depth}.weight", (hidden, 2 * hidden), "linear") for depth in depths]
        out = [TensorSpec("map.weight", (hidden, 2 * hidden), "linear")]
        for depth in depths:
            out += [TensorSpec(f"down.{depth}.weight", (RANK, 2 * hidden), "linear")]
            out += [TensorSpec(f"up.{depth}.weight", (hidden, RANK), "linear"), TensorSpec(f"streams.{depth}", (hidden,), "bias")]
        return out

    def check(self, target: ModelSpec) -> None:
        """CheckpointError unless it can stand on `target`."""
        for name, own, other in (("hidden_size", self.body.hidden, target.hidden), ("vocab_size", self.body.vocab, target.vocab)):
            if own != other:
                raise CheckpointError(
                    f"{self.body.name}: {name}={own}, but {target.name} has {other}; take a head that was trained for it, or train one: "
                    f"slipstream train drafter --kind {self.kind}"
                )
        if self.outputs and not self.mapped and self.outputs != target.vocab:
            raise CheckpointError(
                f"{self.body.name}: its output layer has {self.outputs} rows, but {target.name} has vocab_size={target.vocab}; take a head "
                "that was trained for it"
            )
        if min(self.levels) < 0 or max(self.levels) > len(target.layers) + 1:
            raise CheckpointError(
                f"{self.body.name}: levels={list(self.levels)}: {target.name} has {len(target.layers)} layers, so {len(target.layers) + 1} "
                "is the last level; take a head that was trained for it"
            )
        if self.file == JOINING and not 0 < self.joins < len(target.layers):
            raise CheckpointError(
                f"{self.body.name}: levels={list(self.levels)}: its rows must join {target.name} at a layer from 1 to "
                f"{len(target.layers) - 1}; take a head that was trained for it"
            )


def stored_name(canonical: str) -> str:
    """The name in a head's file: "layers.0.mixer.q.weight" -> "layers.0.self_attn.q_proj.weight"."""
    known = canonical.startswith(("layers.", "norm."))
    return checkpoint_name(NAMES, canonical).removeprefix(PREFIX) if known else canonical


def read_config(folder: Path | str) -> Mapping[str, Any]:
    """folder/config.json of a head.

    Raises:
        InputError: there is none.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise InputError(f"speculate: path={str(folder)!r} has no config.json; give the folder of a trained head")
    return read_json(path)


def head_of(config: Mapping[str, Any], name: str) -> HeadSpec:
    """A parsed config.json as a HeadSpec; `name` is for messages."""
    fields = Fields(config, f"{name}/config.json")
    kind = fields.get("drafter", "")
    if kind not in KINDS:
        raise fields.error("drafter", kind, f"must be one of {', '.join(KINDS)}; slipstream train drafter writes such heads")
    levels = fields.get("levels")
    if not isinstance(levels, list) or not levels or not all(type(level) is int and level >= 0 for level in levels):
        raise fields.error("levels", levels, "must be a list of whole numbers, not empty")
    own = ("drafter", "levels", "depth")
    body = config_to_spec({**{key: value for key, value in config.items() if key not in own}, "architectures": ["LlamaForCausalLM"]})
    head = HeadSpec(kind, tuple(levels), fields.whole("depth"), replace(body, name=name), normed=kind == "mtp")
    if kind in ("blockwise", "redrafter"):
        head = replace(head, bottom=Bottom("state"))
    if head.file == JOINING:
        head = replace(head, bottom=Bottom("wide"), norm=False)
    return replace(head, blocks=BLOCKS) if kind == "redrafter" else head


def usual_levels(kind: str, target: ModelSpec) -> tuple[int, ...]:
    """What a new head of a kind reads: what the target's final norm reads, or where its rows join, half-way up; of FUSED a low and a
    middle state too (EAGLE-3)."""
    layers = len(target.layers)
    if kind in FUSED:
        return tuple(sorted({max(1, layers // 4), max(1, layers // 2), layers}))
    return (max(1, layers // 2),) if FORMS.get(kind) == JOINING else (layers,)


def head_config(kind: str, target: ModelSpec, levels: Sequence[int], depth: int, width: int) -> dict[str, Any]:
    """The config.json of a new head for `target`.

    Args:
        width: inner size of its ffn.

    Raises:
        InputError: the target's attention has no shape that such a head can take.
    """
    mixer = target.layers[-1].mixer
    if mixer.kind != "gqa":
        raise InputError(f"kind={kind!r}: {target.name} has {mixer.kind} attention, of which a head cannot take its shape")
    return {
        "drafter": kind,
        "levels": list(levels),
        "depth": depth,
        "hidden_size": target.hidden,
        "vocab_size": target.vocab,
        "intermediate_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.head_dim,
        "max_position_embeddings": target.max_len,
        "rms_norm_eps": target.norm_eps,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
