"""What the families make of a config.json, where no checkpoint is needed: old and new styles, defaults, refusals."""

import math

import pytest

from slipstream.arch import LinearScaling, LongRope, RopeSpec, YarnScaling, tensors
from slipstream.arch.detect import config_to_spec
from slipstream.arch.names import grouped, stacked
from slipstream.arch.rope import NO_ROPE, partial_order
from slipstream.arch.spec import AttentionSpec, RouterSpec
from slipstream.base.errors import CheckpointError

BASE = dict(
    vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=96,
)  # fmt: skip
NEOX = {name: value for name, value in BASE.items() if name != "num_key_value_heads"}
FALCON = {name: value for name, value in NEOX.items() if name != "intermediate_size"}
MLA = {**BASE, "num_key_value_heads": 4, "moe_intermediate_size": 16}
GPT2 = dict(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=96)


def spec(architecture, base=BASE, **changes):
    return config_to_spec({"architectures": [architecture], **base, **changes})


def windows(model):
    return [layer.mixer.window for layer in model.layers]


def test_mistral_without_the_field_has_a_window_and_null_has_none():
    assert windows(spec("MistralForCausalLM")) == [4096] * 4
    assert windows(spec("MistralForCausalLM", sliding_window=None)) == [0] * 4
    assert spec("MistralForCausalLM", sliding_window=5).windows == (5,)


def test_qwen_windows_are_off_unless_asked_for():
    assert windows(spec("Qwen2ForCausalLM", sliding_window=9, max_window_layers=1)) == [0] * 4
    assert windows(spec("Qwen2ForCausalLM", sliding_window=9, max_window_layers=1, use_sliding_window=True)) == [0, 9, 9, 9]
    kinds = ["sliding_attention", "full_attention"] * 2
    assert windows(spec("Qwen3ForCausalLM", sliding_window=9, layer_types=kinds)) == [9, 0, 9, 0]


def test_gemma_3_in_both_styles():
    old = dict(rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling={"rope_type": "linear", "factor": 8.0}, sliding_window_pattern=2)
    full, narrow = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e4}
    new = dict(
        rope_parameters={"full_attention": full, "sliding_attention": narrow}, layer_types=["sliding_attention", "full_attention"] * 2
    )
    first, second = (spec("Gemma3ForCausalLM", head_dim=16, sliding_window=7, **style) for style in (old, new))
    assert first == second
    assert first.ropes == (RopeSpec(1e4), RopeSpec(1e6, LinearScaling(8.0))) and windows(first) == [7, 0, 7, 0]
    assert first.tied and first.embed_scale == 8.0 and first.layers[0].mixer.scale == 256**-0.5


def test_gemma_3_that_sees_states_little_of_its_language_model():
    """As the 4B model's own config.json does."""
    text = dict(hidden_size=2560, intermediate_size=10240, num_hidden_layers=34, sliding_window=1024, model_type="gemma3_text")
    model = spec("Gemma3ForConditionalGeneration", {"text_config": {**text, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}})
    mixer = model.layers[5].mixer
    assert (model.vocab, mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.scale) == (262208, 8, 4, 256, 256**-0.5)
    assert mixer.rope == RopeSpec(1e6, LinearScaling(8.0)) and windows(model)[:7] == [1024] * 5 + [0, 1024] and model.tied


def test_gemma_2_bounds_may_be_null():
    usual = spec("Gemma2ForCausalLM")
    assert (usual.logit_softcap, usual.layers[0].mixer.softcap) == (30.0, 50.0) and windows(usual) == [4096, 0, 4096, 0]
    free = spec("Gemma2ForCausalLM", final_logit_softcapping=None, attn_logit_softcapping=None)
    assert (free.logit_softcap, free.layers[0].mixer.softcap) == (0.0, 0.0)


def test_neox_in_both_styles():
    old = spec("GPTNeoXForCausalLM", NEOX, rotary_pct=0.5, rotary_emb_base=500, hidden_act="gelu_fast")
    new = spec(
        "GPTNeoXForCausalLM", NEOX, hidden_act="gelu_new",
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    assert old == new and old.ropes == (RopeSpec(500.0, rotated=8),)
    assert old.layers[0].parallel and not old.layers[0].one_norm and old.norm == "layer"


def test_smollm_3_layers_without_rope():
    assert [layer.mixer.rope == NO_ROPE for layer in spec("SmolLM3ForCausalLM").layers] == [False, False, False, True]
    stated = spec("SmolLM3ForCausalLM", no_rope_layers=[0, 1, 1, 0])
    assert [layer.mixer.rope == NO_ROPE for layer in stated.layers] == [True, False, False, True]


def test_granite_folds_the_residual_multiplier():
    model = spec("GraniteForCausalLM", residual_multiplier=0.5, embedding_multiplier=12.0, logits_scaling=4.0, rms_norm_eps=1e-5)
    assert (model.embed_scale, model.norm_eps, model.logit_scale) == (24.0, 4e-5, 0.25)


def test_experts_of_qwen_stand_where_the_fields_say():
    kinds = [layer.ffn.kind for layer in spec("Qwen3MoeForCausalLM", decoder_sparse_step=2, mlp_only_layers=[3]).layers]
    assert kinds == ["gated", "moe", "gated", "gated"]
    shared = spec("Qwen2MoeForCausalLM").layers[0].ffn
    assert (shared.shared, shared.shared_gate, shared.router) == (5632, True, RouterSpec(60, 4, normed=False))


def test_deepseek_yarn_is_one_factor_of_rope_and_one_of_scores():
    yarn = {"type": "yarn", "factor": 40, "mscale": 0.5, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}
    model = spec("DeepseekV3ForCausalLM", MLA, rope_scaling=yarn, first_k_dense_replace=2)
    grown = 0.1 * math.log(40)
    assert model.ropes[0].scaling.amplitude == pytest.approx((0.5 * grown + 1) / (grown + 1))
    assert model.layers[0].mixer.scale == pytest.approx(192**-0.5 * (grown + 1) ** 2)
    assert [layer.ffn.kind for layer in model.layers] == ["gated", "gated", "moe", "moe"]
    assert model.layers[3].ffn.router == RouterSpec(256, 8, "sigmoid", 8, 4, 2, True, 2.5, True)
    assert (model.kv_heads, model.head_dim) == (4, 192)


def test_gpt_oss_sees_a_window_on_every_other_layer():
    model = spec("GptOssForCausalLM")
    assert windows(model) == [128, 0, 128, 0] and model.layers[0].mixer.sinks
    assert "layers.0.mixer.sinks" in {tensor.name for tensor in tensors(model)}


def test_falcon_kinds():
    seven = spec("FalconForCausalLM", FALCON)
    assert seven.kv_heads == 1 and seven.layers[0].one_norm and len(tensors(seven)) == 1 + 4 * (2 + 4 + 2) + 2
    forty = spec("FalconForCausalLM", FALCON, new_decoder_architecture=True, num_kv_heads=2, multi_query=True)
    assert forty.kv_heads == 2 and forty.layers[0].parallel and not forty.layers[0].one_norm
    assert not spec("FalconForCausalLM", FALCON, parallel_attn=False, multi_query=False).layers[0].parallel


def test_gpt2_positions_are_parameters():
    model = spec("GPT2LMHeadModel", GPT2)
    assert model.max_len == model.positions == 96 and model.ropes == (NO_ROPE,) and model.tied
    assert {tensor.name: tensor.role for tensor in tensors(model)}["positions.weight"] == "embedding"
    assert spec("GPTBigCodeForCausalLM", GPT2).kv_heads == 1


@pytest.mark.parametrize(
    ("architecture", "base", "changes", "message"),
    [
        ("Phi3ForCausalLM", BASE, {"attention_bias": True}, "attention_bias=True"),
        ("Phi3ForCausalLM", BASE, {"rope_scaling": {"type": "su", "long_factor": [1], "short_factor": [1]}}, "short_factor=.*8 numbers"),
        ("PhiForCausalLM", BASE, {"qk_layernorm": True}, "qk_layernorm=True"),
        ("PhiForCausalLM", BASE, {"partial_rotary_factor": 0.45}, "partial_rotary_factor=0.45.*even"),
        ("FalconForCausalLM", FALCON, {"alibi": True}, "alibi=True.*rotary"),
        ("FalconForCausalLM", FALCON, {"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn=False"),
        ("GPT2LMHeadModel", GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("GPT2LMHeadModel", GPT2, {"n_head": 5}, "n_head=5.*n_embd=64"),
        ("GPT2LMHeadModel", GPT2, {"activation_function": "relu"}, "activation_function='relu'.*gelu_new"),
        ("Gemma3ForCausalLM", BASE, {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("Qwen3ForCausalLM", BASE, {"layer_types": ["full_attention"]}, "layer_types=.*list of 4"),
        ("MixtralForCausalLM", BASE, {"num_local_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok=3.*at most.*=2"),
        ("Qwen3MoeForCausalLM", BASE, {"mlp_only_layers": ["a"]}, "mlp_only_layers=.*layer numbers"),
        ("DeepseekV2ForCausalLM", MLA, {"norm_topk_prob": True}, "norm_topk_prob=True"),
        ("DeepseekV2ForCausalLM", MLA, {"scoring_func": "sigmoid"}, "scoring_func='sigmoid'"),
        ("DeepseekV3ForCausalLM", MLA, {"n_group": 7}, "n_group=7.*divide n_routed_experts=256"),
        ("DeepseekV3ForCausalLM", MLA, {"topk_group": 1, "n_group": 64}, "n_group=64.*leave num_experts_per_tok=8"),
        ("DeepseekV3ForCausalLM", MLA, {"v_head_dim": 999}, "v_head_dim=999.*at most.*192"),
        ("DeepseekV3ForCausalLM", MLA, {"rope_interleave": False}, "rope_interleave=False"),
        ("GptOssForCausalLM", BASE, {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("SmolLM3ForCausalLM", BASE, {"no_rope_layers": [1]}, "no_rope_layers=.*list of 4"),
        ("Starcoder2ForCausalLM", BASE, {"norm_type": "rms"}, "norm_type='rms'"),
        ("Qwen2ForCausalLM", BASE, {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0}}, "mscale=1.0"),
    ],
)
def test_refusals_name_field_and_value(architecture, base, changes, message):
    with pytest.raises(CheckpointError, match=message):
        spec(architecture, base, **changes)


def test_longrope_is_chosen_by_the_longest_position():
    rope = RopeSpec(100.0, LongRope((1.0, 2.0), (4.0, 8.0), 32, 1.5))
    assert rope.frequencies(4, 32) == [1.0, 0.1 / 2] and rope.frequencies(4, 33) == [1 / 4, 0.1 / 8] and rope.amplitude == 1.5


def test_yarn_keeps_fast_pairs_and_divides_slow_ones():
    plain, yarn = RopeSpec(1e4), RopeSpec(1e4, YarnScaling(4.0, 32.0, 1.0, 4096, 0.1 * math.log(4) + 1))
    before, after = plain.frequencies(128, 16384), yarn.frequencies(128, 16384)
    for slow, fast in zip(before, after, strict=True):
        turns = 4096 * slow / (2 * math.pi)
        assert fast == pytest.approx(slow) if turns > 33 else slow / 4 * 0.999 <= fast < slow
    assert after[-1] == pytest.approx(before[-1] / 4)


def test_pairs_that_are_not_rotated_stand_still():
    assert RopeSpec(100.0, rotated=4).frequencies(8, 9) == [1.0, 0.1, 0.0, 0.0]
    assert partial_order(8, 4) == (0, 1, 4, 5, 2, 3, 6, 7) and partial_order(8, 8) == tuple(range(8))


def test_rows_of_fused_tensors():
    mixer = AttentionSpec(4, 2, 2, RopeSpec(1e4))
    assert [list(stacked(mixer, part)) for part in "qkv"] == [list(range(8)), [8, 9, 10, 11], [12, 13, 14, 15]]
    assert [list(grouped(mixer, part)) for part in "qkv"] == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]
    assert list(grouped(mixer, "k", (1, 0))) == [5, 4, 13, 12]
