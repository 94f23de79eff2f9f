"""The parameters of a trained head (arch/heads.py), from its folder or made up. Owns completeness and the fit to the target.

Must not know how they are packed or used.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from slipstream.arch.heads import HeadSpec, head_config, head_of, read_config, stored_name
from slipstream.arch.published import Part, published
from slipstream.arch.spec import ModelSpec
from slipstream.base.errors import CheckpointError, InputError
from slipstream.files.safetensors import INDEX, SINGLE
from slipstream.weights.checkpoint import Checkpoint
from slipstream.weights.dummy import Dummy
from slipstream.weights.pickled import Pickled
from slipstream.weights.source import Weights

DUMMY = "dummy"  # random parameters, for tests and dry runs
DUMMY_DEPTH = 4
FILES = ("medusa_lm_head.safetensors", "pytorch_model.bin", "medusa_lm_head.pt")  # that published heads lie in, besides model.safetensors


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
    folder, config = Path(source), read_config(source)
    if "drafter" in config:
        spec, places, stored = head_of(config, folder.name), None, None
    else:
        stored = open_stored(folder)
        spec, places = published(config, stored.shapes, target, folder.name)
    if spec.kind != kind:
        raise InputError(f"speculate: path={str(source)!r} holds a head of kind {spec.kind!r}; use speculate='{spec.kind}:path={source}'")
    spec.check(target)
    return spec, HeadWeights(spec, folder, device, stored, places)


def open_stored(folder: Path) -> Checkpoint | Pickled:
    """The tensors of a head's folder, whatever file they lie in."""
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None or (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        return Checkpoint(folder)
    return Checkpoint(file) if file.suffix == ".safetensors" else Pickled(file)


class HeadWeights:
    """`Weights` of a head.

    Args:
        head: what it is made of.
        folder: holds its tensors.
        device: where parameters are wanted.
        stored: its tensors; None to open model.safetensors.
        places: where each parameter lies there; None: under its own name, and there is nothing else.

    Attributes:
        names: canonical names of all of them.

    Raises:
        CheckpointError: a tensor is missing, or of another shape than the config says.
    """

    def __init__(
        self,
        head: HeadSpec,
        folder: Path,
        device: str = "cpu",
        stored: Checkpoint | Pickled | None = None,
        places: Mapping[str, Part] | None = None,
    ):
        self.spec, self._device, self._stored = head.body, device, stored or Checkpoint(folder)
        self.files, self.shelf, self.metadata = self._stored.files, None, {}
        self._wanted = {parameter.name: parameter for parameter in head.tensors()}
        self._places = dict(places or {name: Part(stored_name(name)) for name in self._wanted})
        self.names = tuple(self._wanted)
        self._check(folder, whole=places is None)
        matrices = [name for name, parameter in self._wanted.items() if parameter.role in ("linear", "embedding")]
        self.format = "bf16" if all(self._stored.kind(self._places[name].name) == "BF16" for name in matrices) else "fp32"
        self.as_stored = self.format

    def get(self, name: str) -> Tensor:
        """See `Weights.get`; "ids" come as whole numbers. [outputs] int64"""
        parameter, place = self._wanted[name], self._places[name]
        if parameter.role == "ids":
            return self._ids(place.name)
        tensor = self._stored.tensor(place.name)
        if place.last:
            tensor = tensor[:, place.first : place.last].contiguous()
        matrix = parameter.role in ("linear", "embedding")
        return tensor.to(self._device).to(torch.bfloat16 if self.format == "bf16" and matrix else torch.float32)

    def stored(self, name: str) -> None:
        """See `Weights.stored`: these are plain numbers."""

    def _ids(self, name: str) -> Tensor:
        """Tokens of the rows of a head's own output layer; what is stored is how far each lies behind its row."""
        offsets = self._stored.raw(name).long()
        ids = torch.arange(len(offsets)) + offsets
        if (ids.diff() <= 0).any() or int(ids[0]) < 0 or int(ids[-1]) >= self.spec.vocab:
            raise CheckpointError(f"{self.files[0]}: {name} must lead to ever higher tokens below vocab_size={self.spec.vocab}")
        return ids.to(self._device)

    def _check(self, folder: Path, whole: bool) -> None:
        """Every parameter has its shape; the file of a `whole` one holds nothing else."""
        expected: dict[str, tuple[int, ...]] = {}
        for name, parameter in self._wanted.items():
            place, shape = self._places[name], parameter.shape
            expected[place.name] = (shape[0], max(place.last, expected.get(place.name, (0, 0))[1])) if place.last else shape
        for name in (*expected, *(self._stored.shapes if whole else ())):
            own, found = expected.get(name), self._stored.shapes.get(name)
            if own != found:
                shapes = [list(shape) if shape else "none" for shape in (own, found)]
                raise CheckpointError(
                    f"{folder}: tensor {name!r}: expected shape {shapes[0]}, found {shapes[1]}; take the config.json that belongs to "
                    "these weights"
                )
