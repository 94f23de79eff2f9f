"""The parameters of a trained head (arch/heads.py), from its folder or made up. Owns completeness and the fit to the target.

Must not know how they are packed or used.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from slipstream.arch.heads import HeadSpec, head_config, head_of, read_config, stored_name, usual_levels
from slipstream.arch.names import Place
from slipstream.arch.published import mtp, published
from slipstream.arch.spec import ModelSpec
from slipstream.base.errors import CheckpointError, InputError
from slipstream.base.registry import unknown
from slipstream.files.safetensors import INDEX, SINGLE
from slipstream.quant import computed
from slipstream.weights.checkpoint import Checkpoint
from slipstream.weights.dummy import Dummy
from slipstream.weights.load import taken
from slipstream.weights.open import open_checkpoint
from slipstream.weights.pickled import Pickled
from slipstream.weights.source import Stored, Weights

MATRICES = ("linear", "embedding")
DUMMY = "dummy"  # random parameters, for tests and dry runs
DUMMY_DEPTH = 4
FILES = ("medusa_lm_head.safetensors", "pytorch_model.bin", "medusa_lm_head.pt")  # that published heads lie in, besides model.safetensors


def open_head(source: Path | str, kind: str, target: ModelSpec, device: str = "cpu") -> tuple[HeadSpec, Weights]:
    """A head of this kind for `target`, checked but not read yet.

    Args:
        source: its folder, or "dummy[:FORMAT[:ROWS]]" for random parameters, see `_made_up`.

    Raises:
        InputError: there is no such folder, or it holds a head of another kind.
        CheckpointError: it does not fit the target, or its file is damaged or incomplete.
    """
    if str(source).partition(":")[0] == DUMMY:
        return _made_up(str(source), kind, target, device)
    if kind == "mtp" and (found := _own_module(Path(source), target)) is not None:
        spec, places, stored = found
        return spec, HeadWeights(spec, Path(source), device, stored, places)
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


def _made_up(source: str, kind: str, target: ModelSpec, device: str) -> tuple[HeadSpec, Weights]:
    """A head of random parameters whose layer is as wide as the target's, so that it costs what a trained one does.

    Args:
        source: "dummy", "dummy:int4" to have it rounded at load as `--quant` rounds a model, "dummy:bf16:32000" with an output layer of its
            own for that many of the target's tokens, as EAGLE-3's have it; else it takes the target's.

    Raises:
        InputError: there is no such format, or a number of rows that is none.
    """
    format, _, rows = source.partition(":")[2].partition(":")
    if format and format not in (formats := computed()):
        raise unknown(f"speculate: path={source!r}: format", format, formats)
    if rows and not (rows.isdecimal() and 0 < int(rows) <= target.vocab):
        raise InputError(f"speculate: path={source!r}: rows={rows!r} must be a number from 1 to the vocabulary, {target.vocab}")
    width = getattr(target.layers[-1].ffn, "width", 2 * target.hidden)
    spec = head_of(head_config(kind, target, usual_levels(kind, target), DUMMY_DEPTH, width), DUMMY)
    if rows:
        spec = replace(spec, outputs=int(rows), mapped=True)
    weights = Dummy(spec.body, "fp32" if format == "fp32" else "bf16", device=device, wanted=spec.tensors())
    weights.as_stored = format or weights.format
    return spec, weights


def _own_module(source: Path, target: ModelSpec) -> tuple[HeadSpec, dict[str, Place], Stored] | None:
    """The module that guesses ahead in a whole model's checkpoint; None if that is none, or has none."""
    if source.is_dir() and "drafter" in read_config(source):
        return None
    _, _, stored = open_checkpoint(source)
    found = mtp(stored.shapes, target)
    if found is None:
        raise InputError(f"speculate='mtp': {source} has no module that guesses ahead; name a head, mtp:PATH, or train one with --kind mtp")
    return *found, stored


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
        stored: Stored | Pickled | None = None,
        places: Mapping[str, Place] | None = None,
    ):
        self.spec, self._device, self._stored = head.body, device, stored or Checkpoint(folder)
        self.files, self.shelf, self.metadata = self._stored.files, None, {}
        self._wanted = {parameter.name: parameter for parameter in head.tensors()}
        self._places = places or {name: Place(stored_name(name), one.shape) for name, one in self._wanted.items()}
        self.names = tuple(self._wanted)
        self._check(folder, whole=places is None)
        matrices = [name for name, parameter in self._wanted.items() if parameter.role in MATRICES]
        self.format = "bf16" if all(self._stored.kind(self._places[name].name) == "BF16" for name in matrices) else "fp32"
        self.as_stored = self.format

    def get(self, name: str) -> Tensor:
        """See `Weights.get`; "ids" come as whole numbers. [outputs] int64"""
        parameter, place = self._wanted[name], self._places[name]
        if parameter.role == "ids":
            return self._ids(place.name)
        tensor = self._stored.tensor(place.name) if place.number is None else self._stored.tensor(place.name, place.number)
        tensor = taken(tensor, place).view(parameter.shape).to(self._device)
        if parameter.role in MATRICES:
            return tensor.to(torch.bfloat16 if self.format == "bf16" else torch.float32)
        return tensor.float() + place.plus

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
        expected = {place.name: place.shape for place in self._places.values()}
        for name in (*expected, *(self._stored.shapes if whole else ())):
            own, found = expected.get(name), self._stored.shapes.get(name)
            if own != found:
                shapes = [list(shape) if shape else "none" for shape in (own, found)]
                raise CheckpointError(
                    f"{folder}: tensor {name!r}: expected shape {shapes[0]}, found {shapes[1]}; take the config.json that belongs to "
                    "these weights"
                )
