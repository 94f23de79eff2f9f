"""The parameters of a trained head (arch/heads.py), from its folder or made up. Owns completeness and the fit to the target.

Must not know how they are packed or used.
"""

from pathlib import Path

import torch
from torch import Tensor

from slipstream.arch.heads import HeadSpec, head_config, head_of, read_head, stored_name
from slipstream.arch.spec import ModelSpec
from slipstream.base.errors import CheckpointError, InputError
from slipstream.weights.checkpoint import Checkpoint
from slipstream.weights.dummy import Dummy
from slipstream.weights.source import Weights

DUMMY = "dummy"  # random parameters, for tests and dry runs
DUMMY_DEPTH = 4


def open_head(source: Path | str, kind: str, target: ModelSpec, device: str = "cpu") -> tuple[HeadSpec, Weights]:
    """A head of this kind for `target`, checked but not read yet.

    Args:
        source: its folder, or "dummy".

    Raises:
        InputError: there is no such folder, or it holds a head of another kind.
        CheckpointError: it does not fit the target, or its file is damaged or incomplete.
    """
    if str(source) == DUMMY:
        spec = head_of(head_config(kind, target, (len(target.layers),), DUMMY_DEPTH, 2 * target.hidden), DUMMY)
        return spec, Dummy(spec.body, device=device, wanted=spec.tensors())
    spec = read_head(source)
    if spec.kind != kind:
        raise InputError(f"speculate: path={str(source)!r} holds a head of kind {spec.kind!r}; use speculate='{spec.kind}:path={source}'")
    spec.check(target)
    return spec, HeadWeights(spec, Path(source), device)


class HeadWeights:
    """`Weights` of a head.

    Args:
        head: what it is made of.
        folder: holds model.safetensors.
        device: where parameters are wanted.

    Attributes:
        names: canonical names of all of them.
    """

    def __init__(self, head: HeadSpec, folder: Path, device: str = "cpu"):
        self.spec, self._device, self._checkpoint = head.body, device, Checkpoint(folder)
        self.files, self.shelf = self._checkpoint.files, None
        self._wanted = {parameter.name: parameter for parameter in head.tensors()}
        self.names = tuple(self._wanted)
        stored = {stored_name(name): parameter.shape for name, parameter in self._wanted.items()}
        for name in (*stored, *self._checkpoint.shapes):
            own, found = stored.get(name), self._checkpoint.shapes.get(name)
            if own != found:
                shapes = [list(shape) if shape else "none" for shape in (own, found)]
                raise CheckpointError(
                    f"{folder}: tensor {name!r}: expected shape {shapes[0]}, found {shapes[1]}; take the config.json that belongs to "
                    "these weights"
                )
        matrices = [name for name, parameter in self._wanted.items() if parameter.role == "linear"]
        self.format = "bf16" if all(self._checkpoint.kind(stored_name(name)) == "BF16" for name in matrices) else "fp32"
        self.as_stored = self.format

    def get(self, name: str) -> Tensor:
        """See `Weights.get`."""
        tensor = self._checkpoint.tensor(stored_name(name)).to(self._device)
        return tensor.to(torch.bfloat16 if self.format == "bf16" and self._wanted[name].role == "linear" else torch.float32)

    def stored(self, name: str) -> None:
        """See `Weights.stored`: these are plain numbers."""
