"""Phi-1, 1.5 and 2. Files of the first weeks hold q, k and v as one tensor."""

from typing import Any

from torch import Tensor

from slipstream.arch.families import phi
from slipstream.arch.names import Place
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.weights.gguf import names
from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import Metadata, rotated_share
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, as_family

ARCHITECTURE = "PhiForCausalLM"
FIELDS = {**COMMON, "attention.layer_norm_epsilon": "layer_norm_eps"}

__all__ = ["ARCHITECTURE", "FIELDS", "MADE", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """A part of a head is rotated."""
    config["partial_rotary_factor"] = rotated_share(file, config)


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """In the order of the family's own checkpoints."""
    return as_family(phi.place(spec, parameter), names.place(spec, parameter))


def _third(number: int) -> Any:
    def take(qkv: Tensor) -> Tensor:
        return qkv.unflatten(0, (3, -1))[number]

    return take


MADE = {
    f"blk.{{}}.attn_{part}.{ending}": ((f"blk.{{}}.attn_qkv.{ending}",), _third(number))
    for number, part in enumerate("qkv")
    for ending in ("weight", "bias")
}
