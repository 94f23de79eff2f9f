"""What the metadata of each architecture becomes where no key says it: rules by size and age of a file, and refusals by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.arch.detect import config_to_spec
from slipstream.arch.rope import LinearScaling, YarnScaling
from slipstream.base import registry
from slipstream.base.errors import CheckpointError, InputError
from slipstream.weights.gguf.config import KINDS, to_config

BASE = {
    "embedding_length": 64, "block_count": 6, "feed_forward_length": 96, "attention.head_count": 4, "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6, "context_length": 128,
}  # fmt: skip
MLA = {
    **BASE, "attention.head_count_kv": 1, "attention.kv_lora_rank": 16, "rope.dimension_count": 8, "attention.key_length_mla": 20,
    "attention.value_length_mla": 10, "leading_dense_block_count": 1, "expert_feed_forward_length": 20, "expert_count": 256,
    "expert_used_count": 8, "expert_shared_count": 1, "expert_gating_func": 2, "expert_weights_norm": True, "expert_weights_scale": 2.5,
}  # fmt: skip
FALCON = {**BASE, "attention.layer_norm_epsilon": 1e-5}


def config_of(architecture, values=BASE, tensors=(), **changes):
    metadata = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in {**values, **changes}.items() if value is not None}
    return to_config(metadata, {"token_embd.weight": (97, 64), **dict.fromkeys(tensors, (8, 8))}, lambda name: [1.0])


def spec_of(*args, **changes):
    return config_to_spec(config_of(*args, **changes))


def windows(spec):
    return [layer.mixer.window for layer in spec.layers]


def test_gemma_2_scales_scores_by_the_head_and_in_the_largest_model_by_hidden_over_heads():
    small = spec_of("gemma2", **{"attention.key_length": 24, "attention.sliding_window": 9})
    large = spec_of("gemma2", **{"attention.key_length": 24, "attention.sliding_window": 9, "block_count": 46})
    assert small.layers[0].mixer.scale == 24**-0.5 and large.layers[0].mixer.scale == 16**-0.5
    assert windows(small) == [9, 0] * 3 and (small.logit_softcap, small.layers[0].mixer.softcap) == (30.0, 50.0)


def test_gemma_3_windows_and_ropes():
    spec = spec_of("gemma3", **{"attention.key_length": 16, "attention.sliding_window": 9, "rope.freq_base": 1e6})
    assert windows(spec) == [9] * 5 + [0] and [layer.mixer.rope.theta for layer in spec.layers] == [1e4] * 5 + [1e6]
    stretched = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base": 1e6, "rope.freq_base_swa": 500.0}
    spec = spec_of("gemma3", **{"attention.key_length": 16, "attention.sliding_window": 9, **stretched})
    assert spec.layers[5].mixer.rope.scaling == LinearScaling(8.0)
    assert (spec.layers[0].mixer.rope.theta, spec.layers[0].mixer.rope.scaling) == (500.0, None)
    assert windows(spec_of("gemma3", **{"attention.key_length": 16})) == [0] * 6
    assert spec_of("gemma3", **{"attention.key_length": 24, "block_count": 62}).layers[0].mixer.scale == 16**-0.5


def test_which_layers_have_a_window_may_be_stated():
    pattern = {"attention.sliding_window": 9, "attention.sliding_window_pattern": 3}
    assert windows(spec_of("gemma2", **pattern)) == [9, 9, 0] * 2
    stated = [True, False, False, True, True, False]
    assert windows(spec_of("gemma2", **{**pattern, "attention.sliding_window_pattern": stated})) == [9 * narrow for narrow in stated]


def test_deepseek_groups_that_old_files_do_not_state():
    assert _router("deepseek2", MLA) == (8, 4, "sigmoid")
    assert _router("deepseek2", MLA, expert_count=64) == (1, 1, "sigmoid")
    assert _router("deepseek2", MLA, expert_group_count=4, expert_group_used_count=2) == (4, 2, "sigmoid")
    second = {"expert_gating_func": None, "expert_weights_norm": None, "expert_used_count": 6}
    assert _router("deepseek2", MLA, expert_count=160, **second) == (8, 3, "softmax")
    assert _router("deepseek2", MLA, expert_count=64, **second) == (1, 1, "softmax")


def _router(*args, **changes):
    router = spec_of(*args, **changes).layers[1].ffn.router
    return router.groups, router.kept, router.scoring


def test_deepseek_heads_and_yarn():
    old = {"attention.key_length": 20, "attention.value_length": 10, "attention.key_length_mla": None, "attention.value_length_mla": None}
    new = {"attention.key_length": 24, "attention.value_length": 16}
    mixers = [spec_of("deepseek2", MLA, **keys).layers[0].mixer for keys in (old, new)]
    assert mixers[0] == mixers[1] and (mixers[0].plain_dim, mixers[0].rope_dim, mixers[0].value_dim) == (12, 8, 10)
    scaling = {"rope.scaling.type": "yarn", "rope.scaling.factor": 40.0, "rope.scaling.original_context_length": 4096}
    config = config_of("deepseek2", MLA, **scaling, **{"rope.scaling.yarn_log_multiplier": 0.07070000469684601})
    assert (config["rope_scaling"]["mscale"], config["rope_scaling"]["mscale_all_dim"]) == (0.707, 0.707)
    assert config_to_spec(config).ropes[0].scaling.amplitude == 1.0


def test_gpt_oss_does_not_widen_the_ramp():
    keys = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32, "attention.sliding_window": 7}
    scaling = {"rope.scaling.type": "yarn", "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 4096}
    spec = spec_of("gpt-oss", **keys, **scaling, **{"rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0})
    assert isinstance(spec.ropes[0].scaling, YarnScaling) and not spec.ropes[0].scaling.whole
    assert windows(spec) == [7, 0] * 3 and spec.layers[0].ffn.width == 32


def test_falcons():
    assert spec_of("falcon", FALCON, **{"attention.head_count_kv": 1}).layers[0].one_norm
    forty = spec_of("falcon", FALCON, ["blk.0.attn_norm_2.weight"])
    assert forty.kv_heads == 2 and not forty.layers[0].one_norm
    stated = spec_of("falcon", FALCON, **{"rope.freq_base": 500042.0})
    assert stated.layers[0].one_norm and stated.ropes[0].theta == 500042.0


def test_neox_of_44_layers_has_the_other_gelu():
    keys = {"attention.layer_norm_epsilon": 1e-5, "rope.dimension_count": 4, "use_parallel_residual": True, "attention.head_count_kv": None}
    assert spec_of("gptneox", **keys).layers[0].ffn.activation == "gelu" and spec_of("gptneox", **keys).ropes[0].rotated == 4
    assert spec_of("gptneox", **keys, block_count=44).layers[0].ffn.activation == "gelu_tanh"


def test_the_window_of_starcoder_2_is_not_stated():
    assert set(windows(spec_of("starcoder2", **{"attention.layer_norm_epsilon": 1e-5}))) == {4096}


def test_phi_3_windows():
    assert windows(spec_of("phi3", **{"attention.sliding_window": 0})) == [0] * 6
    assert windows(spec_of("phi3", **{"attention.sliding_window": 2047})) == [2047] * 6
    share = spec_of("phi3", **{"attention.sliding_window": 0, "attention.head_count": 2, "rope.dimension_count": 24}).ropes[0]
    assert share.rotated == 24


def test_a_factor_of_longrope_that_does_not_follow_is_kept():
    keys = {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.25, "rope.dimension_count": 2}
    tensors = ["rope_factors_long.weight", "rope_factors_short.weight"]
    assert spec_of("phi3", BASE, tensors, **keys).ropes[0].amplitude == 1.25
    usual = spec_of("phi3", BASE, tensors, **{**keys, "rope.scaling.attn_factor": None}).ropes[0].amplitude
    assert config_of("phi3", BASE, tensors, **{**keys, "rope.scaling.attn_factor": usual})["rope_scaling"].get("attention_factor") is None


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("olmo2", {"attention.sliding_window": 4096}, r"olmo2\.attention\.sliding_window=4096: has no known meaning"),
        ("starcoder", {"attention.head_count_kv": 4}, r"starcoder\.attention\.head_count_kv=4: only 1 is supported"),
        ("falcon", {}, r"falcon\.rope\.freq_base: is missing, and this model does not have the usual one; take the \*\.safetensors"),
        ("phi2", {"rope.dimension_count": 40}, r"phi2\.rope\.dimension_count=40: must be a part of the width of a head, 16"),
        ("gemma2", {"attention.sliding_window_pattern": [True]}, r"sliding_window_pattern=\[True\]: must be a truth value for each of 6"),
        ("gemma2", {"attention.head_count": [4, 2]}, r"head_count=\[4, 2\]: layers that differ are not supported"),
        ("qwen3moe", {}, r"qwen3moe\.expert_feed_forward_length: is missing; fetch the file again"),
        ("deepseek2", {"attention.temperature_length": 8192}, r"attention\.temperature_length=8192: has no known meaning"),
        ("deepseek2", {"rope.dimension_count": 32}, r"rope\.dimension_count=32: must be below the width of a key, 20"),
        (
            "deepseek2",
            {"rope.scaling.yarn_log_multiplier": 0.1},
            r"yarn_log_multiplier=0\.1: must be a number above 0, with rope\.scaling\.type",
        ),
        ("qwen2", {"rope.scaling.type": "yarn", "rope.scaling.yarn_attn_factor": 2.0}, r"yarn_attn_factor=2\.0: has no known meaning"),
    ],
)
def test_refusals_name_key_and_value(architecture, changes, message):
    with pytest.raises(CheckpointError, match=message):
        config_of(architecture, MLA if architecture == "deepseek2" else BASE, **changes)


VALUES = st.integers(-2, 300) | st.floats() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(0, 3), max_size=3)
KEYS = sorted(
    {*MLA, "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "other", "logit_scale"}
    | {"rope.scaling.yarn_log_multiplier", "rope.scaling.attn_factor", "attention.sliding_window", "attention.sliding_window_pattern"}
)


@given(
    st.sampled_from(registry.names(KINDS)),
    st.dictionaries(st.sampled_from(KEYS), VALUES),
    st.lists(st.sampled_from(["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"]), max_size=3),
    st.lists(st.floats(), min_size=1, max_size=3),
)
def test_arbitrary_metadata_is_a_model_or_refused(kind, values, tensors, numbers):
    architecture = kind.replace("_", "-")
    metadata = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in {**MLA, **values}.items()}
    shapes = {"token_embd.weight": (8, 8), **dict.fromkeys(tensors, (len(numbers),))}
    try:
        config_to_spec(to_config(metadata, shapes, lambda name: numbers))
    except InputError:
        return
