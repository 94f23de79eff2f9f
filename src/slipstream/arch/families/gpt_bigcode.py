"""GPTBigCode (SantaCoder, StarCoder 1): GPT-2 with one key/value head and matrices stored as [outputs, inputs]. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch.families.gpt2 import NAMES, NOT_WEIGHTS, PREFIX, learned_positions
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, grouped, whole
from slipstream.arch.spec import ModelSpec, TensorSpec

ARCHITECTURES = ("GPTBigCodeForCausalLM",)

__all__ = ["ARCHITECTURES", "NAMES", "NOT_WEIGHTS", "PREFIX", "place", "to_spec"]


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields({"activation_function": "gelu_pytorch_tanh", **config}, "config.json")
    return learned_positions(fields, "gpt_bigcode", fields.flag("multi_query", True))


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """q, k and v are one tensor, per key/value head."""
    found, part, mixer = whole(NAMES, parameter), parameter.name.split(".")[-2], spec.layers[0].mixer
    if part not in ("q", "k", "v"):
        return found
    rows = (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim
    return Place(found.name, (rows, *parameter.shape[1:]), rows=grouped(mixer, part))
