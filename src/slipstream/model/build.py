"""From a name to a Decoder: a checkpoint folder or "dummy:<shape>[:<format>]". Must not know kernels' insides or the engine."""

from pathlib import Path

from slipstream.arch.shapes import shape
from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.quant import computed
from slipstream.weights.dummy import Dummy
from slipstream.weights.hub import locate
from slipstream.weights.load import load
from slipstream.weights.source import Weights

DUMMY = "dummy:"
_STORED = ("bf16", "fp32")


def load_model(
    source: Path | str, kernels: Kernels, *, quant: str | None = None, max_rows: int, max_logit_rows: int, max_len: int | None = None
) -> Decoder:
    """Reads, packs and allocates. Only an id that is not in the cache touches the network.

    Args:
        source: a folder in the Hugging Face layout, a GGUF file, an id "org/name" of the hub (see `weights.hub`), or
            "dummy:<shape>[:bf16|fp32]" for random weights of a named shape.
        kernels: who computes.
        quant: format for linear layers, one of `quant.computed()`; None keeps them as stored, or unpacks them exactly.
        max_rows, max_logit_rows, max_len: see Decoder.

    Raises:
        InputError: no such folder, shape or format.
        CheckpointError: the checkpoint is not supported, damaged or incomplete.
    """
    if quant is not None and quant not in computed():
        raise registry.unknown("quant", quant, computed())
    weights = open_weights(source, kernels.device)
    return Decoder(weights.spec, weights, kernels, max_rows, max_logit_rows, format=quant, max_len=max_len)


def open_weights(source: Path | str, device: str = "cpu") -> Weights:
    """The parameters of a source, checked but not read yet; `.spec` and `.format` serve memory planning."""
    if not str(source).startswith(DUMMY):
        return load(locate(source), device)
    name, _, format = str(source).removeprefix(DUMMY).partition(":")
    if format and format not in _STORED:
        raise InputError(f"model={str(source)!r}: format {format!r} is not one of {', '.join(_STORED)}; use dummy:<shape>[:<format>]")
    return Dummy(shape(name), format or _STORED[0], device=device)
