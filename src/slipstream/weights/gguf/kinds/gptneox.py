"""GPT-NeoX and Pythia: q, k and v of all heads lie one after the other. Not stated: which gelu."""

from typing import Any

from slipstream.arch.names import Place, stacked
from slipstream.arch.rope import partial_order
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.weights.gguf import names
from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import Metadata, rotated_share
from slipstream.weights.gguf.names import NAMES as SEPARATE
from slipstream.weights.gguf.names import NOT_WEIGHTS

ARCHITECTURE = "GPTNeoXForCausalLM"
FIELDS = {
    **{key: field for key, field in COMMON.items() if key != "attention.head_count_kv"},
    "attention.layer_norm_epsilon": "layer_norm_eps", "use_parallel_residual": "use_parallel_residual",
}  # fmt: skip
NAMES = SEPARATE | {f"layers.{{}}.mixer.{part}": "blk.{}.attn_qkv" for part in "qkv"}
TWENTY_B = 44  # layers of the only published model with the other gelu

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "fused", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """A part of a head is rotated; biases show in the tensors."""
    config["rotary_pct"] = rotated_share(file, config)
    config["attention_bias"] = "blk.0.attn_qkv.bias" in file.shapes
    config["hidden_act"] = "gelu_fast" if config.get("num_hidden_layers") == TWENTY_B else "gelu"


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Where a part of a head is rotated, its pairs come first in ours."""
    mixer = spec.layers[0].mixer
    return fused(spec, parameter, None if mixer.rope.rotated is None else partial_order(mixer.head_dim, mixer.rope.rotated))


def fused(spec: ModelSpec, parameter: TensorSpec, order: tuple[int, ...] | None = None) -> Place:
    """As `names.place`, with q, k and v of all heads one after the other in one tensor. order: see `arch.names.heads`."""
    found, part, mixer = names.place(spec, parameter, NAMES), parameter.name.split(".")[-2], spec.layers[0].mixer
    if part not in ("q", "k", "v"):
        return found
    rows = (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim
    return Place(found.name, (rows, *parameter.shape[1:]), rows=stacked(mixer, part, order))
