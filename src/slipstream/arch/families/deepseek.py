"""DeepSeek V2, V2-Lite, V3, V3.1 and R1: latent attention, experts in groups, shared experts, dense layers first. Data only."""

import math
from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, heads, whole
from slipstream.arch.spec import FfnSpec, LayerSpec, MlaSpec, ModelSpec, MoeSpec, RouterSpec, TensorSpec

ARCHITECTURES = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    "layers.{}.mixer.q_a": "model.layers.{}.self_attn.q_a_proj",
    "layers.{}.mixer.q_a_norm": "model.layers.{}.self_attn.q_a_layernorm",
    "layers.{}.mixer.kv_a": "model.layers.{}.self_attn.kv_a_proj_with_mqa",
    "layers.{}.mixer.k_rope": "model.layers.{}.self_attn.kv_a_proj_with_mqa",
    "layers.{}.mixer.kv_a_norm": "model.layers.{}.self_attn.kv_a_layernorm",
    "layers.{}.mixer.kv": "model.layers.{}.self_attn.kv_b_proj",
    "layers.{}.ffn.router": "model.layers.{}.mlp.gate",
    **{f"layers.{{}}.ffn.experts.{{}}.{part}": f"model.layers.{{}}.mlp.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")},
    **{f"layers.{{}}.ffn.shared.{part}": f"model.layers.{{}}.mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")},
}
_HARMLESS = (  # of training, of the second model that guesses ahead, or what follows from other fields
    *("aux_loss_alpha", "seq_aux", "ep_size", "num_nextn_predict_layers", "num_mtp_layers", "output_router_logits", "router_aux_loss_coef"),
    *("head_dim", "qk_head_dim", "num_local_experts", "num_experts"),
)


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    third = config["architectures"] == ["DeepseekV3ForCausalLM"]
    fields = Fields(config, "config.json")
    fields.absent("mlp_bias", "feed-forward layers of this family have no bias")
    fields.only("moe_layer_freq", (1,), 1)
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_act", "silu"))
    width = fields.whole("moe_intermediate_size")
    shared = fields.whole("n_shared_experts", 1 if third else 2) * width
    sparse = MoeSpec(_router(fields, third), fields.whole("hidden_size"), width, shared, activation=ffn.activation)
    count, dense = fields.whole("num_hidden_layers"), fields.get("first_k_dense_replace", 3 if third else 0)
    if type(dense) is not int or dense < 0:
        raise fields.error("first_k_dense_replace", dense, "must be a whole number of at least 0")
    mixer = _mixer(fields, third)
    layers = [LayerSpec(mixer, ffn if number < dense else sparse) for number in range(count)]
    return common.model(fields, "deepseek", layers, harmless=_HARMLESS)


def _router(fields: Fields, third: bool) -> RouterSpec:
    """V3 scores by sigmoid with a correction and judges a group by its two best; V2 by softmax and the best one."""
    experts, chosen = common.expert_counts(fields, "n_routed_experts", 256 if third else 64, 8 if third else 6)
    fields.only("scoring_func", ("sigmoid",) if third else ("softmax",), "sigmoid" if third else "softmax")
    method = fields.only("topk_method", ("noaux_tc",) if third else ("greedy", "group_limited_greedy"), "noaux_tc" if third else "greedy")
    groups, kept = fields.whole("n_group", 8 if third else 1), fields.whole("topk_group", 4 if third else 1)
    if method == "greedy":
        groups = kept = 1
    best = 2 if third and groups > 1 else 1
    if experts % groups or experts // groups < best or kept > groups or kept * (experts // groups) < chosen:
        what = f"with topk_group={kept} must divide n_routed_experts={experts} and leave num_experts_per_tok={chosen} to choose"
        raise fields.error("n_group", groups, what)
    normed = fields.flag("norm_topk_prob", third)
    if normed and not third:
        raise fields.error("norm_topk_prob", normed, "is not supported for V2, whose models have it off; set it to false")
    scale = fields.number("routed_scaling_factor", 2.5 if third else 1.0)
    return RouterSpec(experts, chosen, "sigmoid" if third else "softmax", groups, kept, best, normed, scale, correction=third)


def _mixer(fields: Fields, third: bool) -> MlaSpec:
    count = fields.whole("num_attention_heads")
    fields.only("num_key_value_heads", (count,), count)
    plain, turned, value = fields.whole("qk_nope_head_dim", 128), fields.whole("qk_rope_head_dim", 64), fields.whole("v_head_dim", 128)
    for name, size in (("qk_nope_head_dim", plain), ("qk_rope_head_dim", turned)):
        if size % 2:
            raise fields.error(name, size, "must be even, rope rotates pairs")
    if value > plain + turned:
        raise fields.error("v_head_dim", value, f"must be at most qk_nope_head_dim + qk_rope_head_dim={plain + turned}")
    if third and not fields.flag("rope_interleave", True):
        raise fields.error("rope_interleave", False, "is not supported; reorder the checkpoint's rotated numbers in pairs")
    config, factor = _yarn(fields)
    rope = common.rope(Fields(config, fields.where), plain + turned, types=("default", "yarn"), rotated=turned)
    q_rank = 0 if fields.get("q_lora_rank", None) is None else fields.whole("q_lora_rank")
    return MlaSpec(
        count, plain, turned, value, q_rank, fields.whole("kv_lora_rank", 512), rope,
        factor * (plain + turned) ** -0.5, fields.flag("attention_bias", False),
    )  # fmt: skip


def _yarn(fields: Fields) -> tuple[dict[str, Any], float]:
    """The config with mscale and mscale_all_dim as the one factor that they make, and the factor of the scores."""
    config, scale = dict(fields.values), 1.0
    for name in ("rope_parameters", "rope_scaling"):
        inner = config.get(name)
        if not isinstance(inner, Mapping) or "yarn" not in (inner.get("rope_type"), inner.get("type")):
            continue
        read = Fields(inner, f"{fields.where}: {name}")
        grown = 0.1 * math.log(max(1.0, read.number("factor")))
        here, everywhere = (read.number(part, None) if inner.get(part) else 0.0 for part in ("mscale", "mscale_all_dim"))
        config[name] = {part: value for part, value in inner.items() if part not in ("mscale", "mscale_all_dim")}
        if here and everywhere:
            config[name].setdefault("attention_factor", (here * grown + 1) / (everywhere * grown + 1))
        scale = (everywhere * grown + 1) ** 2
    return config, scale


def spare(spec: ModelSpec) -> tuple[str, ...]:
    """V3 and R1 have a layer behind the last that guesses ahead (arch/published.py)."""
    return (rf"model\.layers\.{len(spec.layers)}\..*",)


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Rotated pairs lie side by side behind the rest of a head; ours are as `model/mixers/mla.py` says."""
    found, parts, mixer = whole(NAMES, parameter), parameter.name.split("."), spec.layers[0].mixer
    part, d, plain, rank = parts[-2], mixer.head_dim, mixer.plain_dim, mixer.kv_rank
    turned = [[*range(plain + side, d, 2)] for side in (0, 1)]
    if parts[-1] == "correction":
        return Place(found.name.removesuffix("correction") + "e_score_correction_bias", found.shape)
    if parts[0] != "layers" or parts[2] != "mixer":
        return found
    if part == "q":
        half = plain // 2
        order = (*turned[0], *range(half), *turned[1], *range(half, plain))
        name = found.name.replace("q_proj", "q_b_proj") if mixer.q_rank else found.name
        return Place(name, found.shape, rows=heads(mixer.heads, d, order))
    if part in ("kv_a", "k_rope"):
        rows = range(rank) if part == "kv_a" else tuple(rank + row - plain for side in turned for row in side)
        return Place(found.name, (rank + mixer.rope_dim, *parameter.shape[1:]), rows=rows)
    return found
