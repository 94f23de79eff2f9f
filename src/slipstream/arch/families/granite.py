"""Granite 3: Llama with four multipliers. Data only.

The residual multiplier m is folded: with the stream x = m * y, what is added to y is the plain output of a sub-layer, the
embedding is scaled by 1 / m more, and norm(x; eps) = norm(y; eps / m^2).
"""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("GraniteForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", False)
    scale = fields.number("attention_multiplier", 1.0)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias, scale=scale)
    activation = common.activation(fields, "hidden_act", "silu")
    ffn = FfnSpec(fields.whole("intermediate_size"), fields.flag("mlp_bias", False), activation)
    residual = fields.number("residual_multiplier", 1.0)
    return common.model(
        fields, "granite", (LayerSpec(mixer, ffn),) * fields.whole("num_hidden_layers"),
        norm_eps=fields.number("rms_norm_eps", 1e-6) / residual**2,
        embed_scale=fields.number("embedding_multiplier", 1.0) / residual,
        logit_scale=1 / fields.number("logits_scaling", 1.0),
    )  # fmt: skip
