"""Which formats there are and which one a checkpoint is in. Owns the choice; must not know any format's insides."""

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import CheckpointError
from slipstream.quant.scheme import Scheme

FORMATS = "slipstream.quant.formats"
WAY_OUT = "take the unquantised checkpoint and let quant='int8' quantise it"


def computed() -> list[str]:
    """Names of the formats that weights can be converted to, which a kernel runs."""
    return [name for name in registry.names(FORMATS) if hasattr(registry.load(FORMATS, name), "quantise")]


def readers() -> list[str]:
    """Names of the formats that checkpoints are quantised in."""
    return [name for name in registry.names(FORMATS) if _recognised(registry.load(FORMATS, name))]


def _recognised(module: ModuleType) -> bool:
    return hasattr(module, "GGUF") or hasattr(module, "METHODS")


def reader_of_gguf(kind: str) -> ModuleType | None:
    """The format of a ggml type such as "Q8_0"; None if it is not supported."""
    return next((module for module in _modules() if kind in getattr(module, "GGUF", ())), None)


def gguf_kinds() -> list[str]:
    """Names of the ggml types that can be read, besides plain floats."""
    return [kind for module in _modules() for kind in getattr(module, "GGUF", ())]


def reader_of_config(config: Mapping[str, Any]) -> Scheme:
    """How the linear layers of a checkpoint are stored.

    Args:
        config: `quantization_config` of config.json (or `compression_config`, or `quantization` of hf_quant_config.json).

    Raises:
        CheckpointError: no format reads it; names what it asks for.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError(f"quantization_config={config!r}: must be a JSON object; take the config.json that belongs to these weights")
    for module in _modules():
        scheme = module.recognise(config) if hasattr(module, "recognise") else None
        if scheme is not None:
            return scheme
    method = config.get("quant_method", config.get("quant_algo"))
    kind = config.get("format", config.get("fmt", config.get("checkpoint_format")))
    known = sorted({method for module in _modules() for method in getattr(module, "METHODS", ())})
    raise CheckpointError(
        f"quantization_config: quant_method={method!r}{f', format={kind!r}' if kind else ''} is not supported; "
        f"supported: {', '.join(known)}; {WAY_OUT}"
    )


@cache
def _modules() -> list[ModuleType]:
    """Looked up once: a checkpoint asks for every one of its tensors."""
    return [registry.load(FORMATS, name) for name in readers()]
