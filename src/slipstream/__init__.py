"""Slipstream: fast inference for large language models.

Public names only, loaded when asked for, so that `import slipstream` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "LLM": "slipstream.engine.llm",
    "AsyncLLM": "slipstream.engine.aio",
    "SamplingParams": "slipstream.step",
    "DraftTree": "slipstream.step",
    "SlipstreamError": "slipstream.base.errors",
    "InputError": "slipstream.base.errors",
    "CheckpointError": "slipstream.base.errors",
    "CapacityError": "slipstream.base.errors",
    "BackendError": "slipstream.base.errors",
}

__all__ = [
    "AsyncLLM",
    "BackendError",
    "CapacityError",
    "CheckpointError",
    "DraftTree",
    "InputError",
    "LLM",
    "SamplingParams",
    "SlipstreamError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"slipstream has no {name!r}")
    return getattr(import_module(_HOMES[name]), name)
