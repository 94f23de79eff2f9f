"""How a GGUF file says that the context was stretched, as `rope_scaling` of config.json. Must not know architectures or storage."""

import math
from collections.abc import Mapping
from typing import Any

from slipstream.base.errors import CheckpointError
from slipstream.weights.gguf.metadata import WAY_OUT, Metadata

FACTORS = "rope_freqs.weight"
LLAMA3_LEN = 8192  # positions of the first training stage of every model with such factors
_KEYS = {
    "factor": "factor", "original_context_length": "original_max_position_embeddings", "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}  # fmt: skip


def rope_scaling(file: Metadata, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling`, from the keys or from the stored divisors of Llama 3.1; None if there are neither.

    Raises:
        CheckpointError: both, or divisors that no rule gives.
    """
    kind = file.get("rope.scaling.type", "none")
    if kind == "none":
        return _llama3(config, file.numbers(FACTORS)) if FACTORS in file.shapes else None
    if FACTORS in file.shapes:
        raise file.error("rope.scaling.type", f"together with {FACTORS} is not supported; {WAY_OUT}")
    found = {field: file.get(f"rope.scaling.{key}") for key, field in _KEYS.items()}
    return {"rope_type": kind, **{field: value for field, value in found.items() if value is not None}}


def _llama3(config: Mapping[str, Any], factors: list[float]) -> dict[str, Any]:
    """Llama 3.1's stretching, of which a file holds only the resulting divisors: the rule that gives them, or a refusal."""
    theta, factor, low, high = config.get("rope_theta", 10000.0), max(factors), 1.0, 4.0
    if not isinstance(theta, float) or not 0 < theta < math.inf or not 0 < factor < math.inf:
        raise CheckpointError(f"{FACTORS}: factors up to {factor} of rope.freq_base={theta!r} are not those of Llama 3.1; {WAY_OUT}")
    for pair, found in enumerate(factors):
        turns = LLAMA3_LEN * theta ** (-pair / len(factors)) / (2 * math.pi)
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        if not math.isclose(found, 1 / (keep + (1 - keep) / factor), rel_tol=1e-4):
            raise CheckpointError(f"{FACTORS}: these factors are not those of Llama 3.1 (number {pair} is {found}); {WAY_OUT}")
    return {
        "rope_type": "llama3",
        "factor": float(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": LLAMA3_LEN,
    }
