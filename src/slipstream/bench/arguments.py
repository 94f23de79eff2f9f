"""Command-line arguments that choose a model and an engine, written once for all commands that load one.

Must not import the engine: help and argument errors answer without torch.
"""

from typing import Annotated, Any

import typer

from slipstream.base.errors import InputError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_SOURCE = "Folder, GGUF file, hub id, short name or dummy:SHAPE[:FORMAT] (default: the built-in model)."
Model = Annotated[str | None, typer.Option(metavar="MODEL", help=_SOURCE)]
ModelArgument = Annotated[str | None, typer.Argument(help=_SOURCE, show_default=False)]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads (default: physical cores).")]
Quant = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="As stored, or int4 (int4_zero, _64, _128), int8, q8_0, bf16, fp32; GPU: fp8, fp6."),
]
Activations = Annotated[str | None, typer.Option(metavar="N", help="By one int8 scale: 32, 128, row; GPU: fp8.")]
Kv = Annotated[str | None, typer.Option(metavar="TYPE", help="KV cache in fp32, bf16, int8 (CPU), fp8 (GPU) (default: as the weights).")]
MaxLen = Annotated[int | None, typer.Option(metavar="N", min=1, help="Longest request in tokens, output included.")]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="For weights, KV and scratch together, such as 4G.")]
Speculate = Annotated[str, typer.Option(metavar="DRAFTER", help="Who guesses ahead: NAME or NAME:OPTION=VALUE,...")]
Verify = Annotated[str, typer.Option(metavar="RULE", help="For guesses; match changes no text.")]
TargetItl = Annotated[
    float | None,
    typer.Option(metavar="MS", min=0, help="Between tokens while prompts come in (default: 100 on a CPU; 0: any)."),
]
KernelSet = Annotated[
    str | None, typer.Option("--kernels", metavar="SET", help="triton, cpu or reference (default: the best).")
]


def parse_size(text: str | None) -> int | None:
    """ "4G", "512MiB" or a number of bytes -> bytes; units are powers of two."""
    if text is None:
        return None
    bare = text.strip().upper().removesuffix("IB").removesuffix("B")
    digits, unit = (bare[:-1], bare[-1]) if bare[-1:].isalpha() else (bare, "")
    try:
        size = int(float(digits) * UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise InputError(f"--memory {text!r}: give a size like 512M, 4G or a number of bytes") from None
    return size


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: what is None is left to Options' own defaults."""
    return {name: value for name, value in options.items() if value is not None}
