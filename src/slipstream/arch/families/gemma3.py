"""Gemma 3: five layers with a window and a rope of their own to each one without; q and k normed per head. Data only.

Of the models that see (4B and larger) only the language model is read, and that is said.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.families.gemma import HARMLESS, HEAD_DIM, embedding, plus_one
from slipstream.arch.families.gemma2 import NAMES as TEXT_NAMES
from slipstream.arch.families.gemma2 import softcap
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place
from slipstream.arch.rope import RopeSpec
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, TensorSpec
from slipstream.base import log

SEEING = "Gemma3ForConditionalGeneration"
ARCHITECTURES = ("Gemma3ForCausalLM", SEEING)
PREFIX = "language_model."  # of models that see
NAMES = {name: PREFIX + stored for name, stored in TEXT_NAMES.items()}
NOT_WEIGHTS = (*common.NOT_WEIGHTS, r"(vision_tower|multi_modal_projector)\..*")
TEXT = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4}  # where text_config is silent, as in the 4B model
WINDOWED, FULL = "sliding_attention", "full_attention"


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields({"head_dim": HEAD_DIM, **_language(config)}, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    ropes = _ropes(fields, head_dim)
    bias = fields.flag("attention_bias", False)
    wide = AttentionSpec(
        *(heads, kv_heads, head_dim, ropes[FULL], bias, bias),
        scale=fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        softcap=softcap(fields, "attn_logit_softcapping", 0.0) if fields.get("attn_logit_softcapping", None) else 0.0,
        qk_norm="head",
    )
    narrow = replace(wide, rope=ropes[WINDOWED], window=fields.whole("sliding_window", 4096))
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_activation", "gelu_pytorch_tanh"))
    every = fields.whole("sliding_window_pattern", 6)
    kinds = common.layer_types(fields, ((number + 1) % every > 0 for number in range(fields.whole("num_hidden_layers"))))
    layers = [LayerSpec(narrow if here else wide, ffn, post_norm=True) for here in kinds]
    cap = softcap(fields, "final_logit_softcapping", 0.0) if fields.get("final_logit_softcapping", None) else 0.0
    read = ("hidden_act", "rope_local_base_freq", "_sliding_window_pattern", *HARMLESS)
    return common.model(fields, "gemma3", layers, harmless=read, logit_softcap=cap, **(embedding(fields) | _max_len(fields)))


def _language(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the language model."""
    if config["architectures"] != [SEEING]:
        return config
    text = Fields(config, "config.json").get("text_config")
    log.get(__name__).warning("config.json: %s: only its language model is read; images are not supported", SEEING)
    return {**TEXT, **Fields(text, "config.json: text_config").values}


def _max_len(fields: Fields) -> dict[str, int]:
    return {"max_len": fields.whole("max_position_embeddings", 131072)}


def _ropes(fields: Fields, head_dim: int) -> dict[str, RopeSpec]:
    """Rope by kind of layer: newer files have one object per kind, older ones a second base for layers with a window."""
    both = fields.get("rope_parameters", None)
    if isinstance(both, Mapping) and (FULL in both or WINDOWED in both):
        outer, out = Fields({}, fields.where), {}
        for kind, theta in ((FULL, 1e6), (WINDOWED, 1e4)):
            inner = Fields(both.get(kind) or {}, f"{fields.where}: rope_parameters: {kind}")
            out[kind] = common.rope_object(inner, outer, head_dim, common.ROPE_TYPES, None, theta)
        return out
    local = fields.number("rope_local_base_freq", 1e4)
    return {FULL: common.rope(fields, head_dim, theta=1e6), WINDOWED: RopeSpec(local)}


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Norms are stored as their distance from 1."""
    return plus_one(NAMES, parameter)
