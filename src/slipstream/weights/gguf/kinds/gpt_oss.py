"""gpt-oss 20b and 120b. Experts' gate and up are stacks of their own. Not stated: which layers have a window, and that yarn's ramp
is not widened to whole pairs."""

from typing import Any

from slipstream.arch.names import Place
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.weights.gguf import names
from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import Metadata, windowed
from slipstream.weights.gguf.names import NAMES as USUAL
from slipstream.weights.gguf.names import NOT_WEIGHTS

ARCHITECTURE = "GptOssForCausalLM"
FIELDS = {**COMMON, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
NAMES = USUAL | {"layers.{}.ffn.norm": "blk.{}.post_attention_norm"}
PERIOD = 2

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """The experts' width is the only one; all layers have biases."""
    config["intermediate_size"] = file.width("expert_feed_forward_length", "blk.0.ffn_down_exps.weight")
    config["layer_types"] = windowed(file, PERIOD, config.get("num_hidden_layers"))
    if config.get("rope_scaling", {}).get("rope_type") == "yarn":
        config["rope_scaling"]["truncate"] = False


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """The norm of the ffn has another name."""
    return names.place(spec, parameter, NAMES)
