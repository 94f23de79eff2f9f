"""Phi-3, 3.5 mini, 4 and 4-mini: q, k, v and gate, up are one tensor each, LongRoPE's divisors are tensors."""

import math
from typing import Any

from slipstream.arch.families import phi3
from slipstream.arch.names import Place
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.weights.gguf import names
from slipstream.weights.gguf.metadata import FIELDS, Metadata, rotated_share, shortest
from slipstream.weights.gguf.names import NAMES as COMMON
from slipstream.weights.gguf.names import as_family

ARCHITECTURE = "Phi3ForCausalLM"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
NOT_WEIGHTS = tuple(name.replace(".", r"\.") for name in (LONG, SHORT))
NAMES = {
    **COMMON,
    **{f"layers.{{}}.mixer.{part}": "blk.{}.attn_qkv" for part in "qkv"},
    **{f"layers.{{}}.ffn.{part}": "blk.{}.ffn_up" for part in ("gate", "up")},
}

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """A window of 0 means none. The factor of LongRoPE's cosines follows from the lengths; one that does not is kept."""
    config["partial_rotary_factor"] = rotated_share(file, config)
    config["sliding_window"] = config.get("sliding_window") or None
    original, factor = file.get("rope.scaling.original_context_length"), file.get("rope.scaling.attn_factor")
    if LONG not in file.shapes or SHORT not in file.shapes:
        return
    config["original_max_position_embeddings"] = original
    long, short = ([shortest(number) for number in file.numbers(name)] for name in (LONG, SHORT))
    config["rope_scaling"] = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    if factor is not None and not math.isclose(factor, _follows(config), rel_tol=1e-6):
        config["rope_scaling"]["attention_factor"] = factor


def _follows(config: dict[str, Any]) -> float:
    """The factor as LongRoPE has it; not a number for lengths that are no good."""
    most, original = config.get("max_position_embeddings"), config["original_max_position_embeddings"]
    if type(most) is not int or type(original) is not int or min(most, original) < 2:
        return math.nan
    return 1.0 if most <= original else math.sqrt(1 + math.log(most / original) / math.log(original))


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """In the order of the family's own checkpoints."""
    return as_family(phi3.place(spec, parameter), names.place(spec, parameter, NAMES))
