"""The Llama family (Llama 2, 3, 3.1, 3.2, 3.3): what its config.json means and how its checkpoints name the tensors.

Config styles: transformers < 5 (`rope_theta`, `rope_scaling`) and >= 5 (`rope_parameters`). Data only.
"""


from collections.abc import Mapping
from typing import Any

from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, Llama3Scaling, ModelSpec, RopeSpec
from slipstream.base import log
from slipstream.base.errors import CheckpointError

ARCHITECTURES = ("LlamaForCausalLM",)

# canonical name -> name in the checkpoint; {} is the number of the layer, the ending .weight or .bias is kept
NAMES = {
    "embed": "model.embed_tokens",
    "layers.{}.mixer.norm": "model.layers.{}.input_layernorm",
    "layers.{}.mixer.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.mixer.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.mixer.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.mixer.o": "model.layers.{}.self_attn.o_proj",
    "layers.{}.ffn.norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.ffn.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.ffn.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
NOT_WEIGHTS = (r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)  # old files hold this buffer; it follows from rope_theta

# fields without influence on the forward pass, and those that _rope reads
_HARMLESS = (
    *("architectures", "model_type", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "tokenizer"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "use_cache", "initializer_range", "attention_dropout"),
    *("output_attentions", "output_hidden_states", "return_dict", "return_dict_in_generate", "is_encoder_decoder"),
    *("pretraining_tp", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "_attn_implementation_autoset"),
    *("rope_theta", "rope_scaling", "rope_parameters"),
)
_ROPE_TYPES = ("default", "llama3")


def to_spec(config: Mapping[str, Any], name: str = "llama") -> ModelSpec:
    """Reads a config.json.

    Args:
        config: the parsed file.
        name: what the spec is called.

    Raises:
        CheckpointError: a field is missing, of the wrong type, or asks for something this family does not compute.
    """
    fields = Fields(config, "config.json")
    fields.only("hidden_act", ("silu",), "silu")
    fields.absent("quantization_config", "take the unquantised checkpoint and let quant='int8' quantise it")
    fields.absent("compression_config", "take the unquantised checkpoint and let quant='int8' quantise it")
    fields.absent("sliding_window", "this family attends to all earlier positions")
    fields.only("partial_rotary_factor", (1, 1.0), 1.0)
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    layer = LayerSpec(_attention(fields, hidden, heads), FfnSpec(fields.whole("intermediate_size"), fields.flag("mlp_bias", False)))
    max_len = fields.whole("max_position_embeddings", 2048)
    spec = ModelSpec(
        name=name,
        family="llama",
        hidden=hidden,
        vocab=fields.whole("vocab_size"),
        max_len=max_len,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        tied=fields.flag("tie_word_embeddings", False),
        rope=_rope(config),
        layers=(layer,) * fields.whole("num_hidden_layers"),
    )
    for unknown in fields.unknown(_HARMLESS):
        log.get(__name__).warning("config.json: %s=%r is not a field of this family; ignored", unknown, config[unknown])
    return spec


def _attention(fields: Fields, hidden: int, heads: int) -> AttentionSpec:
    kv_heads = fields.whole("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", kv_heads, f"must divide num_attention_heads={heads}")
    if fields.get("head_dim", None) is None and hidden % heads:
        raise fields.error("num_attention_heads", heads, f"must divide hidden_size={hidden}, or head_dim must be given")
    head_dim = fields.whole("head_dim", max(1, hidden // heads))
    if head_dim % 2:
        raise fields.error("head_dim", head_dim, "must be even, rope rotates pairs")
    return AttentionSpec(heads, kv_heads, head_dim, fields.flag("attention_bias", False))


def _rope(config: Mapping[str, Any]) -> RopeSpec:
    """Both styles; where a file has both, they must agree."""
    found = []
    if config.get("rope_parameters") is not None:
        found.append(_rope_object(Fields(config["rope_parameters"], "config.json: rope_parameters"), config))
    if config.get("rope_scaling") is not None or not found:
        found.append(_rope_object(Fields(config.get("rope_scaling") or {}, "config.json: rope_scaling"), config))
    if any(rope != found[0] for rope in found):
        raise CheckpointError("config.json: rope_parameters and rope_scaling disagree; remove the one that is not meant")
    return found[0]


def _rope_object(fields: Fields, config: Mapping[str, Any]) -> RopeSpec:
    kind = fields.only("rope_type" if fields.get("type", None) is None else "type", _ROPE_TYPES, "default")
    fields.only("rope_type", (kind,), kind)
    fields.only("partial_rotary_factor", (1, 1.0), 1.0)
    outer = Fields(config, "config.json")
    theta = fields.number("rope_theta", None) if "rope_theta" in fields.values else outer.number("rope_theta", 10000.0)
    if outer.get("rope_theta", None) not in (None, theta):
        raise fields.error("rope_theta", theta, f"disagrees with config.json: rope_theta={config['rope_theta']!r}; remove one of them")
    scaling = None
    if kind == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        if low >= high:
            raise fields.error("low_freq_factor", low, f"must be below high_freq_factor={high}")
        scaling = Llama3Scaling(fields.number("factor"), low, high, fields.whole("original_max_position_embeddings"))
    unknown = fields.unknown(())
    if unknown:
        raise fields.error(unknown[0], fields.values[unknown[0]], f"has no meaning for rope_type={kind!r}; remove it")
    return RopeSpec(theta, scaling)
