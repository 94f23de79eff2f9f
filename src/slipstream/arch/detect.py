"""Which family reads a config.json. Owns the way from a folder to a ModelSpec; must not know any family's fields."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slipstream.arch.spec import ModelSpec
from slipstream.base import registry
from slipstream.base.errors import CheckpointError, InputError

FAMILIES = "slipstream.arch.families"


def read_spec(folder: Path | str) -> ModelSpec:
    """Reads folder/config.json; nothing is fetched.

    Raises:
        InputError: there is no such folder, or it has no config.json.
        CheckpointError: the config does not describe a supported model.
    """
    folder = Path(folder)
    config = read_config(folder)
    if (folder / "hf_quant_config.json").exists():
        raise CheckpointError(
            f"{folder}/hf_quant_config.json: this checkpoint is already quantised, which is not supported; "
            "take the unquantised one and let quant='int8' quantise it"
        )
    return replace(config_to_spec(config), name=folder.resolve().name)


def read_config(folder: Path | str) -> Mapping[str, Any]:
    """folder/config.json, parsed. Raises as `read_spec` does, but says nothing of what the config asks for."""
    folder = Path(folder)
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"model={str(folder)!r}: no such folder; give a folder with config.json and *.safetensors (nothing is downloaded)")
    if not path.is_file():
        raise InputError(f"model={str(folder)!r}: has no config.json; give a folder in the Hugging Face layout")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(config, Mapping):
        raise CheckpointError("config.json: must be a JSON object")
    return config


def config_to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """A parsed config.json as a ModelSpec, by the family that lists its architecture."""
    if not isinstance(config, Mapping):
        raise CheckpointError("config.json: must be a JSON object")
    asked = config.get("architectures") or [None]
    if not isinstance(asked, list) or len(asked) != 1 or not isinstance(asked[0], str):
        raise CheckpointError(f"config.json: architectures={config.get('architectures')!r}: must name exactly one; supported: {_known()}")
    for name in registry.names(FAMILIES):
        family = registry.load(FAMILIES, name)
        if asked[0] in family.ARCHITECTURES:
            return family.to_spec(config)
    raise CheckpointError(f"config.json: architecture {asked[0]!r} is not supported; supported: {_known()}")


def _known() -> str:
    families = (registry.load(FAMILIES, name) for name in registry.names(FAMILIES))
    return ", ".join(architecture for family in families for architecture in family.ARCHITECTURES)
