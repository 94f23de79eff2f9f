"""config.json -> ModelSpec: all real Llama configs resolve, everything else is refused by name."""

import json
import math
import os
from pathlib import Path

import pytest

from slipstream.arch import AttentionSpec, FfnSpec, Llama3Scaling, RopeSpec, read_spec, shape, tensors
from slipstream.arch.detect import FAMILIES, config_to_spec
from slipstream.arch.shapes import SHAPES
from slipstream.base import registry
from slipstream.base.errors import CheckpointError, InputError

SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[3] / "shared"))
CONFIGS = sorted((SHARED / "data/model_configs").glob("*.json"))
PARAMETERS = {  # as published with the models
    "Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen--Qwen3-0.6B": 596_049_920,
    "Qwen--Qwen3-30B-A3B": 30_532_122_624,
    "Qwen--Qwen3-235B-A22B-FP8": 235_093_634_560,
    "Qwen--Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "Qwen--Qwen3-8B": 8_190_735_360,
    "Qwen2-7B-Instruct": 7_615_616_512,
    "Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen2.5-3B": 3_085_938_688,
    "deepseek-ai--DeepSeek-V3": 671_026_419_200,
    "deepseek-v2-lite": 15_706_484_224,
    "gemma2_2b_it": 2_614_341_888,
    "llama-2-7b-hf": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "meta-llama--Meta-Llama-3.1-405B": 405_853_388_800,
    "meta-llama--Meta-Llama-3.1-8B": 8_030_261_248,
    "mistral-nemo-instruct-2407": 12_247_782_400,
    "mistralai--Mixtral-8x7B-v0.1": 46_702_792_704,
    "nvidia--Llama-3.1-70B-Instruct-FP8": 70_553_706_496,
    "phi-2": 2_779_683_840,
    "phi-3-mini-4k-instruct": 3_821_079_552,
    "phi-3-mini-128k-instruct": 3_821_079_552,
    "phi-4-mini-reasoning": 3_836_021_760,
}
SUPPORTED = {name for family in registry.names(FAMILIES) for name in registry.load(FAMILIES, family).ARCHITECTURES}
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def config(**changes):
    """The tiny shape's config, changed; None removes a field."""
    return {name: value for name, value in {**SHAPES["tiny"], **changes}.items() if value is not None}


@pytest.mark.skipif(not CONFIGS, reason=f"no model configs in {SHARED}; set SLIPSTREAM_SHARED")
def test_real_configs():
    resolved = {}
    for path in CONFIGS:
        values = json.loads(path.read_text())
        asked = (values.get("architectures") or ["None"])[0]
        if asked in SUPPORTED:
            resolved[path.stem] = config_to_spec(values).parameters()
        else:
            with pytest.raises(CheckpointError, match=f"{asked}.*supported: .*LlamaForCausalLM"):
                config_to_spec(values)
    assert {name: resolved.get(name) for name in PARAMETERS} == PARAMETERS


def test_what_a_spec_says():
    spec = config_to_spec(config(head_dim=24, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="silu"))
    assert spec.layers[1].mixer == AttentionSpec(4, 2, 24, RopeSpec(10000.0), True, True)
    assert spec.layers[1].ffn == FfnSpec(160, True)
    assert spec.ropes == (RopeSpec(10000.0),) and spec.tied and spec.norm_eps == 1e-5 and spec.max_len == 2048
    listed = {tensor.name: tensor for tensor in tensors(spec)}
    assert listed["layers.0.mixer.k.weight"].shape == (48, 64) and listed["layers.0.mixer.o.weight"].shape == (64, 96)
    assert listed["layers.1.mixer.o.bias"].shape == (64,) and listed["layers.1.mixer.o.bias"].role == "bias"
    assert "head.weight" not in listed and "head.weight" in {tensor.name for tensor in tensors(shape("tiny"))}
    assert len(listed) == len(tensors(spec)) == 2 + 2 * (2 + 7 + 7)


def test_rope_in_both_styles():
    scaled = RopeSpec(500000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))
    old_name = {"type": "llama3", **{name: value for name, value in SCALED.items() if name != "rope_type"}}
    for style in (
        {"rope_theta": 500000.0, "rope_scaling": SCALED},
        {"rope_theta": 500000.0, "rope_scaling": old_name},
        {"rope_parameters": {**SCALED, "rope_theta": 500000.0}},
        {"rope_theta": 500000.0, "rope_parameters": SCALED},
        {"rope_parameters": {**SCALED, "rope_theta": 500000.0}, "rope_theta": 500000.0, "rope_scaling": SCALED},
    ):
        assert config_to_spec(config(**style)).ropes == (scaled,)
    assert config_to_spec(config(rope_parameters={"rope_type": "default", "rope_theta": 7.0})).ropes == (RopeSpec(7.0),)
    assert config_to_spec(config(rope_theta=9)).ropes == (RopeSpec(9.0),)


def test_llama3_frequencies():
    plain, scaled = RopeSpec(500000.0), RopeSpec(500000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))
    for before, after in zip(plain.frequencies(128, 131072), scaled.frequencies(128, 131072), strict=True):
        wavelength = 2 * math.pi / before
        if wavelength < 8192 / 4:
            assert after == before
        elif wavelength > 8192:
            assert after == pytest.approx(before / 8, rel=1e-15)
        else:
            assert before / 8 < after < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "'BloomForCausalLM' is not supported; supported: .*LlamaForCausalLM"),
        ({"architectures": None}, "architectures=None.*LlamaForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, "must name exactly one"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'.*supported: 'silu'"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "64"}, "hidden_size='64'.*whole number"),
        ({"hidden_size": True}, "hidden_size=True.*whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3.*divide num_attention_heads=4"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "num_attention_heads=5.*divide hidden_size=64"),
        ({"head_dim": 15}, "head_dim=15.*even"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
        ({"attention_bias": 1}, "attention_bias=1.*true or false"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling of type yarn: field 'factor' is missing"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_type='dynamic'.*'default', 'linear', 'llama3'"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "type='longrope'.*'default', 'linear', 'llama3'"),
        ({"rope_scaling": {"type": "llama3", "rope_type": "yarn"}}, "rope_type='yarn'"),
        ({"rope_scaling": {"rope_type": "default", "factor": 4.0}}, "factor=4.0.*no meaning"),
        ({"rope_scaling": {**SCALED, "beta_fast": 32}}, "beta_fast=32.*no meaning"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'low_freq_factor' is missing"),
        ({"rope_scaling": {**SCALED, "low_freq_factor": 4.0}}, "low_freq_factor=4.0.*below high_freq_factor"),
        ({"rope_scaling": [1]}, "must be a JSON object"),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 6.0}, "rope_theta=5.0.*disagrees.*6.0"),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_scaling": {**SCALED, "rope_theta": 5.0}}, "disagree"),
    ],
)
def test_refusals_name_field_and_value(changes, message):
    with pytest.raises(CheckpointError, match=message):
        config_to_spec(config(**changes))


def test_unknown_fields_are_said(caplog):
    config_to_spec(config(logit_scale=2.0, use_cache=True, unset=None))
    assert "logit_scale=2.0" in caplog.text and "use_cache" not in caplog.text and "unset" not in caplog.text


def test_folders(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*nothing is downloaded"):
        read_spec(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must be a JSON object"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config()))
    assert read_spec(tmp_path).name == tmp_path.name
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="hf_quant_config"):
        read_spec(tmp_path)


def test_shapes():
    assert shape("llama-3.2-1b").parameters() == PARAMETERS["Llama-3.2-1B-Instruct"]
    assert shape("llama-3.1-8b").parameters() == PARAMETERS["meta-llama--Meta-Llama-3.1-8B"]
    assert shape("llama-3.2-3b").parameters() == 3_212_749_824
    assert shape("qwen3-30b-a3b").parameters() == 30_532_122_624
    assert all(shape(name).name == name for name in SHAPES)
    with pytest.raises(InputError, match=r"shape='llama-3.2-1d'.*did you mean 'llama-3.2-1b'"):
        shape("llama-3.2-1d")
