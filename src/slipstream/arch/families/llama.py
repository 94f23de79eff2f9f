"""The Llama family (Llama 2, 3, 3.1, 3.2, 3.3, SmolLM 1 and 2): what its config.json means. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("LlamaForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json.

    Raises:
        CheckpointError: a field is missing, of the wrong type, or asks for something this family does not compute.
    """
    fields = Fields(config, "config.json")
    fields.absent("sliding_window", "this family attends to all earlier positions")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", False)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias)
    activation = common.activation(fields, "hidden_act", "silu", ("silu",))
    ffn = FfnSpec(fields.whole("intermediate_size"), fields.flag("mlp_bias", False), activation)
    return common.model(fields, "llama", (LayerSpec(mixer, ffn),) * fields.whole("num_hidden_layers"))
