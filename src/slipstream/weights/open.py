"""From a path to an open checkpoint and its config. Owns which file format a folder is in and how a quantised one is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipstream.arch.detect import read_config
from slipstream.base.errors import CheckpointError, InputError
from slipstream.files.folder import model_gguf, model_name
from slipstream.files.safetensors import read_json
from slipstream.quant.catalogue import reader_of_config
from slipstream.weights.checkpoint import Checkpoint
from slipstream.weights.gguf import GgufCheckpoint
from slipstream.weights.source import Stored
from slipstream.weights.unpacked import Unpacked

_QUANTISATION = ("quantization_config", "compression_config")
_MODELOPT = "hf_quant_config.json"


def open_checkpoint(source: Path) -> tuple[str, Mapping[str, Any], Stored]:
    """(name for messages, config without what it says about quantisation, tensors).

    Raises:
        InputError: there is no checkpoint.
        CheckpointError: it cannot be read; see the readers.
    """
    gguf = model_gguf(source)
    if gguf is not None:
        found = GgufCheckpoint(gguf)
        return model_name(gguf), found.config_json, found
    config = dict(read_config(source))
    quantisation = _quantisation(source, config)
    checkpoint = Checkpoint(source)
    if quantisation is None:
        return model_name(source), config, checkpoint
    try:
        return model_name(source), config, Unpacked(checkpoint, reader_of_config(quantisation))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _quantisation(folder: Path, config: dict[str, Any]) -> Mapping[str, Any] | None:
    """Takes out of `config` what it says about quantisation; None if the weights are plain."""
    found = [config.pop(name) for name in _QUANTISATION if config.get(name)]
    if found:
        return found[0]
    path = folder / _MODELOPT
    if not path.is_file():
        return None
    stated = read_json(path).get("quantization")
    if not isinstance(stated, Mapping):
        raise InputError(f"{path}: has no object `quantization`; fetch the file again")
    return {"quant_method": "modelopt", **stated}
