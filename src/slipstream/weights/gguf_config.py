"""What the metadata of a GGUF file says about the model, in the words of config.json, and what its tensors are called there.

Key and tensor names: ggml-org/llama.cpp, docs/gguf.md and gguf-py/gguf/constants.py. One table per architecture; what the
tables do not know is refused by name. Must not know how tensors are stored.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.base.errors import CheckpointError

WAY_OUT = "take the *.safetensors version of the model"
ROPE_FACTORS = "rope_freqs.weight"
LLAMA3_LEN = 8192  # positions of the first training stage of every model with such factors
_LAYER = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
# metadata key behind the architecture -> field of config.json
_FIELDS = {
    "embedding_length": "hidden_size", "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings", "rope.freq_base": "rope_theta", "attention.sliding_window": "sliding_window",
}  # fmt: skip
_READ_HERE = ("vocab_size", "rope.dimension_count", "attention.value_length", "expert_count", "expert_used_count", "tensor_data_layout")
_SCALING = ("type", "factor", "original_context_length", "finetuned", "attn_factor", "yarn_log_multiplier")


@dataclass(frozen=True)
class Kind:
    """An architecture of GGUF.

    Attributes:
        architecture: of config.json.
        inner: tensor names within a layer.
        interleaved: rows of q and k are stored so that rope turns neighbours (2 i, 2 i + 1); see `weights/gguf.py`.
    """

    architecture: str
    inner: Mapping[str, str]
    interleaved: bool = False


KINDS = {
    "llama": Kind("LlamaForCausalLM", _INNER, interleaved=True),
    "qwen2": Kind("Qwen2ForCausalLM", _INNER),
    "qwen3": Kind("Qwen3ForCausalLM", {**_INNER, **_QK_NORMS}),
}


def kind_of(metadata: Mapping[str, Any]) -> Kind:
    """Raises CheckpointError for an architecture without a table."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in KINDS:
        raise CheckpointError(f"general.architecture={name!r}: is not supported as GGUF; supported: {', '.join(KINDS)}; {WAY_OUT}")
    return KINDS[name]


def checkpoint_name(kind: Kind, name: str) -> str:
    """"blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; a name that the tables do not have stays."""
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in kind.inner:
        return f"model.layers.{layer[1]}.{kind.inner[layer[2]]}.{layer[3]}"
    stem, _, ending = name.rpartition(".")
    return f"{_OUTER[stem]}.{ending}" if stem in _OUTER else name


def to_config(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: list[float] | None) -> dict[str, Any]:
    """The config.json that belongs to a file.

    Args:
        metadata: of the file.
        shapes: tensor name, as in the file -> shape.
        factors: the numbers of the tensor `rope_freqs.weight`, if there is one.

    Raises:
        CheckpointError: a key is missing, or asks for something that the tables do not know.
    """
    kind, prefix = kind_of(metadata), f"{metadata['general.architecture']}."
    values = {key.removeprefix(prefix): _tidy(value) for key, value in metadata.items() if key.startswith(prefix)}
    config: dict[str, Any] = {"architectures": [kind.architecture], "hidden_act": "silu"}
    for key, field in _FIELDS.items():
        if key in values:
            config[field] = _same_everywhere(prefix + key, values[key])
    if "token_embd.weight" not in shapes:
        raise CheckpointError("tensor 'token_embd.weight' is missing: the file holds no weights; take the model's own file")
    config["vocab_size"] = shapes["token_embd.weight"][0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    if kind.architecture == "LlamaForCausalLM":
        config["attention_bias"] = "blk.0.attn_q.bias" in shapes
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in shapes
        if config.get("sliding_window"):
            config["architectures"] = ["MistralForCausalLM"]
    _refuse_unread(prefix, values)
    _check_heads(prefix, values, config)
    scaling = _scaling(prefix, values, config, factors)
    if scaling is not None:
        config["rope_scaling"] = scaling
    return config


def _refuse_unread(prefix: str, values: Mapping[str, Any]) -> None:
    scaling = tuple(f"rope.scaling.{key}" for key in _SCALING)
    unread = sorted(set(values) - set(_FIELDS) - set(_READ_HERE) - set(scaling))
    if unread:
        raise CheckpointError(f"{prefix}{unread[0]}={_shown(values[unread[0]])}: has no known meaning for this architecture; {WAY_OUT}")
    if values.get("expert_count"):
        raise CheckpointError(f"{prefix}expert_count={values['expert_count']!r}: GGUF files with experts are not supported; {WAY_OUT}")


def _check_heads(prefix: str, values: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Rope over a part of the head, or values of another width than keys, would be computed wrong."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    width = config.get("head_dim") or (hidden // heads if type(hidden) is int and type(heads) is int and heads > 0 else None)
    for key in ("rope.dimension_count", "attention.value_length"):
        if values.get(key, width) != width:
            raise CheckpointError(f"{prefix}{key}={values[key]!r}: is not the width of a head, {width}; that is not supported; {WAY_OUT}")


def _scaling(prefix: str, values: Mapping[str, Any], config: Mapping[str, Any], factors: list[float] | None) -> dict[str, Any] | None:
    """`rope_scaling` of config.json: from the keys, or from the stored factors of Llama 3.1."""
    kind = values.get("rope.scaling.type", "none")
    if kind == "none":
        return None if factors is None else _llama3(config, factors)
    if factors is not None:
        raise CheckpointError(f"{prefix}rope.scaling.type={kind!r} together with {ROPE_FACTORS}: is not supported; {WAY_OUT}")
    scaling = {"rope_type": kind, "factor": values.get("rope.scaling.factor")}
    if "rope.scaling.original_context_length" in values:
        scaling["original_max_position_embeddings"] = values["rope.scaling.original_context_length"]
    for key in ("attn_factor", "yarn_log_multiplier"):
        if f"rope.scaling.{key}" in values:
            raise CheckpointError(f"{prefix}rope.scaling.{key}={values[f'rope.scaling.{key}']!r}: is not supported; {WAY_OUT}")
    return scaling


def _llama3(config: Mapping[str, Any], factors: list[float]) -> dict[str, Any]:
    """Llama 3.1's stretching, of which a file holds only the resulting divisors: the rule that gives them, or a refusal."""
    theta, factor, low, high = config.get("rope_theta", 10000.0), max(factors), 1.0, 4.0
    if not isinstance(theta, float) or not 0 < theta < math.inf or not 0 < factor < math.inf:
        raise CheckpointError(f"{ROPE_FACTORS}: factors up to {factor} of rope.freq_base={theta!r} are not those of Llama 3.1; {WAY_OUT}")
    for pair, found in enumerate(factors):
        turns = LLAMA3_LEN * theta ** (-pair / len(factors)) / (2 * math.pi)
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        if not math.isclose(found, 1 / (keep + (1 - keep) / factor), rel_tol=1e-4):
            raise CheckpointError(f"{ROPE_FACTORS}: these factors are not those of Llama 3.1 (number {pair} is {found}); {WAY_OUT}")
    return {
        "rope_type": "llama3",
        "factor": float(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": LLAMA3_LEN,
    }


def _same_everywhere(key: str, value: Any) -> Any:
    """A number that may be given once or for each layer; layers that differ are refused."""
    if not isinstance(value, list):
        return value
    if not value or any(item != value[0] for item in value):
        raise CheckpointError(f"{key}={_shown(value)}: layers that differ are not supported; {WAY_OUT}")
    return value[0]


def _tidy(value: Any) -> Any:
    """The shortest decimal of a 32-bit float: 9.999999747e-06 was written as 1e-05."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if abs(short) < 3e38 and struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
