"""A checkpoint as the parameters of a ModelSpec. Owns completeness: nothing missing, nothing left over, every shape right.

Must not know how parameters are packed or used.
"""


import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from slipstream.arch.detect import FAMILIES, read_spec
from slipstream.arch.names import checkpoint_name
from slipstream.arch.spec import ModelSpec, TensorSpec, tensors
from slipstream.base import log, registry
from slipstream.base.errors import CheckpointError
from slipstream.weights.checkpoint import Checkpoint

_log = log.get(__name__)
_SHOWN = 4  # names listed in one message
_MATRICES = ("embedding", "linear", "head")


def load(folder: Path | str, device: str = "cpu") -> "Loaded":
    """Opens a checkpoint folder and checks it against its own config.json; reads no weights yet.

    Raises:
        InputError: the folder holds no safetensors checkpoint.
        CheckpointError: the config is not supported, or a tensor is missing, extra, mis-shaped or of another type.
    """
    return Loaded(read_spec(folder), Checkpoint(folder), device)


class Loaded:
    """`Weights` from a checkpoint.

    Args:
        spec: the model they shall belong to.
        checkpoint: an open folder.
        device: where parameters are wanted.
    """

    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint, device: str = "cpu"):
        self.spec, self._checkpoint, self._device = spec, checkpoint, device
        family = registry.load(FAMILIES, spec.family)
        wanted = tensors(spec)
        self._names = {parameter.name: checkpoint_name(family.NAMES, parameter.name) for parameter in wanted}
        self._roles = {parameter.name: parameter.role for parameter in wanted}
        head = checkpoint_name(family.NAMES, "head.weight")
        self._check_complete(family.NOT_WEIGHTS, head)
        self._check_shapes(wanted)
        if spec.tied and head in checkpoint.entries:
            self._check_tied(head)
        self.format = self._format()

    def get(self, name: str) -> Tensor:
        """See `Weights.get`."""
        stored = self._checkpoint.tensor(self._names[name])
        keep = (torch.float32, torch.bfloat16) if self._roles[name] in _MATRICES else (torch.float32,)
        stored = stored.to(self._device)
        return stored if stored.dtype in keep else stored.float()

    def _check_complete(self, not_weights: Iterable[str], head: str) -> None:
        present, wanted = self._checkpoint.entries, set(self._names.values())
        missing = [name for name in self._names.values() if name not in present]
        if missing:
            hint = "; if the head is the embedding, config.json must say tie_word_embeddings=true" if missing == [head] else ""
            raise CheckpointError(
                f"{self.spec.name}: {_list(missing)} missing from the checkpoint; take the weights that belong to config.json{hint}"
            )
        ignored = re.compile("|".join(not_weights))
        extra = [name for name in present if name not in wanted and not ignored.fullmatch(name) and not (self.spec.tied and name == head)]
        if extra:
            raise CheckpointError(
                f"{self.spec.name}: {_list(extra)} in the checkpoint, but not in the model that config.json describes; "
                "take the config.json that belongs to these weights"
            )

    def _check_shapes(self, wanted: list[TensorSpec]) -> None:
        for parameter in wanted:
            name = self._names[parameter.name]
            found = self._checkpoint.entries[name].shape
            if found != parameter.shape:
                raise CheckpointError(
                    f"{self.spec.name}: tensor {name!r}: expected shape {list(parameter.shape)}, found {list(found)}; "
                    "take the config.json that belongs to these weights"
                )

    def _check_tied(self, head: str) -> None:
        """Some writers store a tied head although it follows; then it must be the embedding."""
        embedding, own = self._checkpoint.tensor(self._names["embed.weight"]), self._checkpoint.tensor(head)
        if embedding.shape != own.shape or not torch.equal(embedding, own):
            raise CheckpointError(
                f"{self.spec.name}: tensor {head!r} differs from the embedding, but config.json says tie_word_embeddings=true; "
                "set it to false"
            )

    def _format(self) -> str:
        """bf16 if every matrix is; otherwise linear layers are widened to fp32, which is exact, and the log says so."""
        dtypes = {self._checkpoint.tensor(self._names[name]).dtype for name, role in self._roles.items() if role in _MATRICES}
        if dtypes == {torch.bfloat16}:
            return "bf16"
        if dtypes != {torch.float32}:
            kinds = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            _log.warning("%s: stored as %s; linear layers are converted to fp32 (exact, more memory)", self.spec.name, kinds)
        return "fp32"


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more} {'are' if len(names) > 1 else 'is'}"
