"""What most families' config.json and checkpoints have in common: names, harmless fields, head counts, rope in both styles.

Config styles: transformers < 5 (`rope_theta`, `rope_scaling`) and >= 5 (`rope_parameters`). Must not know any family.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slipstream.arch.fields import Fields
from slipstream.arch.rope import LinearScaling, Llama3Scaling, LongRope, RopeSpec, Scaling, YarnScaling
from slipstream.arch.spec import LayerSpec, ModelSpec
from slipstream.base import log
from slipstream.base.errors import CheckpointError

# canonical name -> name in the checkpoint; {} is the number of the layer, the ending .weight or .bias is kept
NAMES = {
    "embed": "model.embed_tokens",
    "layers.{}.mixer.norm": "model.layers.{}.input_layernorm",
    "layers.{}.mixer.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.mixer.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.mixer.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.mixer.o": "model.layers.{}.self_attn.o_proj",
    "layers.{}.mixer.q_norm": "model.layers.{}.self_attn.q_norm",
    "layers.{}.mixer.k_norm": "model.layers.{}.self_attn.k_norm",
    "layers.{}.ffn.norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.ffn.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.ffn.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
NOT_WEIGHTS = (
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",  # old files hold this buffer; it follows from rope_theta
    r"mtp\..*",  # a module that guesses ahead, see arch/published.py
)

# fields without influence on the forward pass, and those that the readers below look at themselves; what a checkpoint's
# quantisation says is the weight loader's business
HARMLESS = (
    *("architectures", "model_type", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "tokenizer", "auto_map"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "use_cache", "initializer_range", "attention_dropout"),
    *("output_attentions", "output_hidden_states", "return_dict", "return_dict_in_generate", "is_encoder_decoder"),
    *("pretraining_tp", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "_attn_implementation_autoset"),
    *("embd_pdrop", "resid_pdrop", "attn_pdrop", "hidden_dropout", "residual_dropout", "embedding_dropout", "resid_dropout"),
    *("cache_implementation", "use_mrope", "quantization_config", "compression_config", "task_specific_params"),
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "original_max_position_embeddings"),
)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu"} | dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh")


def activation(fields: Fields, name: str, default: str, among: Sequence[str] = ("silu", "gelu", "gelu_tanh")) -> str:
    """The activation function that a field names, as `FfnSpec.activation`."""
    return ACTIVATIONS[fields.only(name, [known for known, meant in ACTIVATIONS.items() if meant in among], default)]


def window(fields: Fields, default: int = 0) -> int:
    """`sliding_window`, 0 for none. Absent means the default, null means none."""
    if fields.get("sliding_window", None) is None:
        return 0 if "sliding_window" in fields.values else default
    return fields.whole("sliding_window")


def head_counts(fields: Fields) -> tuple[int, int, int]:
    """(heads, kv_heads, head_dim)."""
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    kv_heads = fields.whole("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", kv_heads, f"must divide num_attention_heads={heads}")
    if fields.get("head_dim", None) is None and hidden % heads:
        raise fields.error("num_attention_heads", heads, f"must divide hidden_size={hidden}, or head_dim must be given")
    head_dim = fields.whole("head_dim", max(1, hidden // heads))
    if head_dim % 2:
        raise fields.error("head_dim", head_dim, "must be even, rope rotates pairs")
    return heads, kv_heads, head_dim


def expert_counts(fields: Fields, name: str, experts: int, chosen: int) -> tuple[int, int]:
    """(experts, experts of a row).

    Args:
        name: of the field that counts the experts; newer files say `num_local_experts`.
        experts, chosen: where no field says it.
    """
    count = fields.whole(name, fields.get("num_local_experts", experts))
    used = fields.whole("num_experts_per_tok", chosen)
    if used > count:
        raise fields.error("num_experts_per_tok", used, f"must be at most {name}={count}")
    return count, used


def layer_types(fields: Fields, default: Iterable[bool]) -> list[bool]:
    """Per layer, whether it sees a window only: what `layer_types` says, else the default."""
    count = fields.whole("num_hidden_layers")
    kinds = fields.get("layer_types", None)
    if kinds is None:
        return [narrow for narrow, _ in zip(default, range(count), strict=False)]
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != count or any(kind not in known for kind in kinds):
        raise fields.error("layer_types", kinds, f"must be a list of {count} out of {', '.join(known)}")
    return [kind == known[1] for kind in kinds]


def model(fields: Fields, family: str, layers: Sequence[LayerSpec], *, harmless: Iterable[str] = (), **given: Any) -> ModelSpec:
    """The ModelSpec of these layers; fields that the family does not read have the names of most families.

    Args:
        harmless: further fields without influence on the forward pass. What is left is logged as ignored.
        given: fields of ModelSpec that the family has read itself.
    """
    wanted = {
        "name": lambda: family,
        "hidden": lambda: fields.whole("hidden_size"),
        "vocab": lambda: fields.whole("vocab_size"),
        "max_len": lambda: fields.whole("max_position_embeddings", 2048),
        "norm_eps": lambda: fields.number("rms_norm_eps", 1e-6),
        "tied": lambda: fields.flag("tie_word_embeddings", False),
    }
    values = {name: given.pop(name) if name in given else read() for name, read in wanted.items()}
    spec = ModelSpec(family=family, layers=tuple(layers), **values, **given)
    for unknown in fields.unknown((*HARMLESS, *harmless)):
        log.get(__name__).warning("%s: %s=%r is not a field of this family; ignored", fields.where, unknown, fields.values[unknown])
    return spec


def rotated(fields: Fields, head_dim: int, name: str = "partial_rotary_factor", default: float = 1.0) -> int | None:
    """How many of a head's numbers are rotated, for RopeSpec; None for all. Newer files say so within `rope_parameters`."""
    inner = fields.get("rope_parameters", None)
    stated = inner.get("partial_rotary_factor") if isinstance(inner, Mapping) else None
    factor = fields.number(name, default)
    if stated is not None:
        factor = Fields(inner, f"{fields.where}: rope_parameters").number("partial_rotary_factor")
    count = int(head_dim * factor)
    if factor == 1:
        return None
    if not 0 < count <= head_dim or count % 2:
        raise fields.error(name, factor, f"must leave an even number of rotated numbers within head_dim={head_dim}")
    return count


def rope(
    fields: Fields, head_dim: int, *, types: Sequence[str] = ROPE_TYPES, rotated: int | None = None, theta: float = 10000.0
) -> RopeSpec:
    """Rope of a config in both styles; where a file has both, they must agree.

    Args:
        head_dim: numbers per head.
        types: rope types that the family may ask for.
        rotated: see RopeSpec.
        theta: where no field says it.
    """
    found, values = [], fields.values
    for name in ("rope_parameters", "rope_scaling"):
        if values.get(name) is not None or (name == "rope_scaling" and not found):
            inner = Fields(values.get(name) or {}, f"{fields.where}: {name}")
            found.append(rope_object(inner, fields, rotated or head_dim, types, rotated, theta))
    if any(one != found[0] for one in found):
        raise CheckpointError(f"{fields.where}: rope_parameters and rope_scaling disagree; remove the one that is not meant")
    return found[0]


def rope_object(inner: Fields, outer: Fields, width: int, types: Sequence[str], rotated: int | None, default_theta: float) -> RopeSpec:
    """One rope object.

    Args:
        inner: the object.
        outer: the config around it, which may hold `rope_theta` instead.
        width: how many numbers of a head are rotated.
        types, rotated, default_theta: see `rope`.
    """
    kind = inner.only("rope_type" if inner.get("type", None) is None else "type", types, "default")
    inner.only("rope_type", (kind,), kind)
    if kind != "default":
        inner.where += f" of type {kind}"
    if rotated is None:
        inner.only("partial_rotary_factor", (1, 1.0), 1.0)
        outer.only("partial_rotary_factor", (1, 1.0), 1.0)
    inner.get("partial_rotary_factor", None)
    theta = inner.number("rope_theta", None) if "rope_theta" in inner.values else outer.number("rope_theta", default_theta)
    if outer.get("rope_theta", None) not in (None, theta):
        raise inner.error("rope_theta", theta, f"disagrees with config.json: rope_theta={outer.values['rope_theta']!r}; remove one of them")
    scaling = _SCALINGS[kind](inner, outer, width)
    unknown = inner.unknown(())
    if unknown:
        raise inner.error(unknown[0], inner.values[unknown[0]], f"has no meaning for rope_type={kind!r}; remove it")
    return RopeSpec(theta, scaling, rotated)


def _llama3(inner: Fields, outer: Fields, width: int) -> Scaling:
    low, high = inner.number("low_freq_factor"), inner.number("high_freq_factor")
    if low >= high:
        raise inner.error("low_freq_factor", low, f"must be below high_freq_factor={high}")
    return Llama3Scaling(inner.number("factor"), low, high, inner.whole("original_max_position_embeddings"))


def _original_len(inner: Fields, outer: Fields) -> int:
    name = "original_max_position_embeddings"
    return outer.whole(name, outer.get("max_position_embeddings")) if inner.get(name, None) is None else inner.whole(name)


def _yarn(inner: Fields, outer: Fields, width: int) -> Scaling:
    factor = inner.number("factor")
    inner.absent("mscale", "no dense family has it")
    inner.absent("mscale_all_dim", "no dense family has it")
    amplitude = inner.number("attention_factor", 0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
    fast, slow = inner.number("beta_fast", 32.0), inner.number("beta_slow", 1.0)
    return YarnScaling(factor, fast, slow, _original_len(inner, outer), amplitude, inner.flag("truncate", True))


def _longrope(inner: Fields, outer: Fields, width: int) -> Scaling:
    sets = []
    for name in ("short_factor", "long_factor"):
        values = inner.get(name)
        numbers = isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)
        if not numbers or len(values) != width // 2:
            raise inner.error(name, values, f"must be a list of {width // 2} numbers above 0, one per rotated pair")
        sets.append(tuple(map(float, values)))
    original, most = _original_len(inner, outer), outer.whole("max_position_embeddings")
    factor = inner.number("factor", max(most / original, 1e-9))
    amplitude = inner.number("attention_factor", 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original)))
    return LongRope(*sets, original, amplitude)


_SCALINGS = {
    "default": lambda inner, outer, width: None,
    "linear": lambda inner, outer, width: LinearScaling(inner.number("factor")),
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
