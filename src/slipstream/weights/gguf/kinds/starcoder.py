"""GPTBigCode (SantaCoder, StarCoder 1): as GPT-2, with one key/value head."""

from typing import Any

from slipstream.weights.gguf.kinds.gpt2 import FIELDS, NAMES, NOT_WEIGHTS, place
from slipstream.weights.gguf.metadata import WAY_OUT, Metadata

ARCHITECTURE = "GPTBigCodeForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """The converter knows one key/value head only."""
    if file.get("attention.head_count_kv", 1) != 1:
        raise file.error("attention.head_count_kv", f"only 1 is supported; {WAY_OUT}")
    config["multi_query"] = True
