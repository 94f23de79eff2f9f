"""Named shapes: real models' measures without their weights, for dry runs, benchmarks and memory questions.

Written as configs, so that a shape goes through the same reader as a checkpoint.
"""

from dataclasses import replace

from slipstream.arch.detect import config_to_spec
from slipstream.arch.spec import ModelSpec
from slipstream.base.registry import unknown


def _llama(hidden: int, width: int, layers: int, heads: int, kv_heads: int, vocab: int, max_len: int, **more) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": max_len,
        "rms_norm_eps": 1e-5,
        **more,
    }


def _llama3_rope(factor: float) -> dict:
    ramp = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": factor, **ramp}}


def _qwen2() -> dict:
    return {"architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}


def _experts(model: str, count: int, chosen: int, width: int) -> dict:
    """What makes a `_llama` a mixture of experts of the architecture `model`."""
    names = ("num_local_experts", "intermediate_size") if model == "MixtralForCausalLM" else ("num_experts", "moe_intermediate_size")
    sizes = dict(zip(names, (count, width), strict=True))
    return {"architectures": [model], "num_experts_per_tok": chosen, "norm_topk_prob": True, **sizes}


SHAPES = {
    "tiny": _llama(64, 160, 2, 4, 2, 512, 2048),
    "tiny-moe": _llama(64, 96, 2, 4, 2, 512, 2048, **_experts("MixtralForCausalLM", 6, 2, 96)),
    "demo": _llama(256, 704, 8, 8, 4, 4096, 1024, tie_word_embeddings=True),
    "llama-2-7b": _llama(4096, 11008, 32, 32, 32, 32000, 4096),
    "llama-3-8b": _llama(4096, 14336, 32, 32, 8, 128256, 8192, rope_theta=500000.0),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32, 8, 128256, 131072, **_llama3_rope(8.0)),
    "llama-3.1-70b": _llama(8192, 28672, 80, 64, 8, 128256, 131072, **_llama3_rope(8.0)),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, 128256, 131072, tie_word_embeddings=True, **_llama3_rope(32.0)),
    "llama-3.2-3b": _llama(3072, 8192, 28, 24, 8, 128256, 131072, tie_word_embeddings=True, head_dim=128, **_llama3_rope(32.0)),
    "qwen2.5-0.5b": _llama(896, 4864, 24, 14, 2, 151936, 32768, **_qwen2()),
    "qwen3-30b-a3b": _llama(2048, 6144, 48, 32, 4, 151936, 40960, head_dim=128, **_experts("Qwen3MoeForCausalLM", 128, 8, 768)),
}


def shape(name: str) -> ModelSpec:
    """The ModelSpec of a named shape.

    Raises:
        InputError: there is no such shape; names the nearest one and all others.
    """
    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)
    return replace(config_to_spec(SHAPES[name]), name=name)
