"""What compressed-tensors' quantization_config says, for the formats that it can name. Owns its fields and refusals.

neuralmagic/compressed-tensors: format, config_groups {name: {targets, weights {num_bits, type, strategy, group_size, symmetric,
actorder}, input_activations, format}}, ignore, kv_cache_scheme. Must not know how anything is packed.
"""

from collections.abc import Mapping
from typing import Any

from slipstream.base.errors import CheckpointError

METHOD = "compressed-tensors"
UNUSED = ("input_scale", "input_zero_point", "output_scale", "k_scale", "v_scale", "q_scale")
_WAY_OUT = "take another quantisation of the model, or the unquantised one with quant='int8'"


def weights_of(config: Mapping[str, Any], formats: tuple[str, ...], kind: str) -> Mapping[str, Any] | None:
    """The `weights` object that all groups share, if the config is compressed-tensors of one of `formats` and of `kind` ("int" or "float").

    Raises:
        CheckpointError: it is, but asks for what is not supported.
    """
    if config.get("quant_method") != METHOD:
        return None
    stated = config.get("config_groups")
    if not isinstance(stated, Mapping) or not stated or not all(isinstance(group, Mapping) for group in stated.values()):
        raise CheckpointError(f"quantization_config ({METHOD}): config_groups={stated!r} must name groups of layers; {_WAY_OUT}")
    names = {group.get("format") or config.get("format") for group in stated.values()}
    weights = [group.get("weights") for group in stated.values()]
    if names - set(formats) or not all(isinstance(each, Mapping) and each.get("type", "int") == kind for each in weights):
        return None
    for name in ("num_bits", "symmetric", "strategy", "group_size", "block_structure"):
        if any(each.get(name) != weights[0].get(name) for each in weights):
            raise CheckpointError(f"quantization_config ({METHOD}): groups that differ in {name} are not supported; {_WAY_OUT}")
    if (config.get("sparsity_config") or {}).get("format", "dense") != "dense":
        raise CheckpointError(f"quantization_config ({METHOD}): sparsity_config={config['sparsity_config']!r} is not supported; {_WAY_OUT}")
    if (config.get("transform_config") or {}).get("config_groups"):
        raise CheckpointError(f"quantization_config ({METHOD}): transform_config (rotations) is not supported; {_WAY_OUT}")
    return weights[0]


def note_of(config: Mapping[str, Any]) -> str:
    """What of the config does not change weights, and is not followed."""
    groups = config.get("config_groups") or {}
    activations = any(isinstance(group, Mapping) and group.get("input_activations") for group in groups.values())
    parts = ["activations are not quantised"] if activations else []
    parts += ["its KV cache scales are not used"] if config.get("kv_cache_scheme") else []
    return ", ".join(parts)


def refuse(name: str, value: Any, supported: str) -> CheckpointError:
    return CheckpointError(f"quantization_config ({METHOD}): {name}={value!r} is not supported; supported: {supported}; {_WAY_OUT}")
