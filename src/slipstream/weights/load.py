"""A checkpoint as the parameters of a ModelSpec. Owns completeness: nothing missing, nothing left over, every shape right.

Must not know how parameters are packed or used.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from slipstream.arch.detect import FAMILIES, config_to_spec
from slipstream.arch.names import Place, checkpoint_name, place_of
from slipstream.arch.spec import ModelSpec, tensors
from slipstream.base import log, registry
from slipstream.base.errors import CheckpointError
from slipstream.cost import LINEAR_ARITHMETIC, Mix, WeightFormat
from slipstream.weights.open import open_checkpoint
from slipstream.weights.source import Stored

_log = log.get(__name__)
_SHOWN = 4  # names listed in one message
_MATRICES = ("embedding", "linear", "head")
_FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def load(source: Path | str, device: str = "cpu") -> "Loaded":
    """Opens a checkpoint and checks it against its own config. Of plain weights nothing is read yet; quantised ones are read as far
    as it takes to know whether bf16 can hold them.

    Args:
        source: a folder in the Hugging Face layout, a GGUF file, or a folder with one.
        device: where parameters are wanted.

    Raises:
        InputError: there is no checkpoint.
        CheckpointError: the config is not supported, or a tensor is missing, extra, mis-shaped or of another type.
    """
    name, config, stored = open_checkpoint(Path(source))
    return Loaded(replace(config_to_spec(config), name=name), stored, device)


class Loaded:
    """`Weights` from a checkpoint.

    Args:
        spec: the model they shall belong to.
        checkpoint: an open one.
        device: where parameters are wanted.
    """

    def __init__(self, spec: ModelSpec, checkpoint: Stored, device: str = "cpu"):
        self.spec, self._checkpoint, self._device = spec, checkpoint, device
        self.files, self.shelf, self.metadata = checkpoint.files, None, checkpoint.metadata
        layout = checkpoint.layout or registry.load(FAMILIES, spec.family)
        wanted = tensors(spec)
        self._places: dict[str, Place] = {parameter.name: place_of(layout, spec, parameter) for parameter in wanted}
        head, prefix = checkpoint_name(layout.NAMES, "head.weight"), getattr(layout, "PREFIX", "")  # some writers leave it out
        if prefix and not any(name.startswith(prefix) for name in checkpoint.shapes):
            self._places = {name: replace(place, name=place.name.removeprefix(prefix)) for name, place in self._places.items()}
            head = head.removeprefix(prefix)
        self._wanted = {parameter.name: parameter for parameter in wanted}
        self._check_complete((*layout.NOT_WEIGHTS, *getattr(layout, "spare", lambda spec: ())(spec)), head)
        self._check_shapes()
        if spec.tied and head in checkpoint.shapes:
            self._check_tied(head)
        self.format = self._format()
        self.as_stored = self._as_stored()
        self._say()

    def get(self, name: str) -> Tensor:
        """See `Weights.get`."""
        place, wanted = self._places[name], self._wanted[name]
        stored = taken(self._checkpoint.tensor(place.name, place.number), place).view(wanted.shape).to(self._device)
        if wanted.role not in _MATRICES:
            stored = stored.float()
            return stored + place.plus if place.plus else stored
        if self.format == "bf16":
            return stored.bfloat16()  # exact: see _format
        return stored if stored.dtype in (torch.float32, torch.bfloat16) else stored.float()

    def stored(self, name: str) -> tuple[str, dict[str, Tensor]] | None:
        """See `Weights.stored`."""
        format, place = self._native(name), self._places[name]
        if format is None:
            return None
        parts = self._checkpoint.laid_out(place.name, place.number)
        return format, {part: taken(tensor, place).to(self._device) for part, tensor in parts.items()}

    def _native(self, name: str) -> str | None:
        place = self._places[name]
        found = None if place.transposed or place.plus else self._checkpoint.native(place.name)
        return found if found in LINEAR_ARITHMETIC[self._device.partition(":")[0]] else None

    def _as_stored(self) -> WeightFormat:
        named = {name: self._native(name) for name in self._places if self._wanted[name].role in _MATRICES}
        if self.spec.tied:
            named["head.weight"] = named["embed.weight"]
        found = tuple((name, format) for name, format in named.items() if format is not None)
        return Mix(self.format, found) if found else self.format

    def _check_complete(self, not_weights: Iterable[str], head: str) -> None:
        present, wanted = self._checkpoint.shapes, {place.name: None for place in self._places.values()}
        missing = [name for name in wanted if name not in present]
        if missing:
            hint = "; if the head is the embedding, config.json must say tie_word_embeddings=true" if missing == [head] else ""
            raise CheckpointError(
                f"{self.spec.name}: {_list(missing)} missing from the checkpoint; take the weights "
                f"that belong to {self._checkpoint.config}{hint}"
            )
        ignored = re.compile("|".join(not_weights))
        extra = [name for name in present if name not in wanted and not ignored.fullmatch(name) and not (self.spec.tied and name == head)]
        if extra:
            raise CheckpointError(
                f"{self.spec.name}: {_list(extra)} in the checkpoint, but not in the model that {self._checkpoint.config} "
                f"describes; take the {self._checkpoint.config.removeprefix('the ')} that belongs to these weights"
            )

    def _check_shapes(self) -> None:
        for place in self._places.values():
            found = self._checkpoint.shapes[place.name]
            if found != place.shape:
                raise CheckpointError(
                    f"{self.spec.name}: tensor {place.name!r}: expected shape {list(place.shape)}, found {list(found)}; "
                    f"take the {self._checkpoint.config.removeprefix('the ')} that belongs to these weights"
                )

    def _check_tied(self, head: str) -> None:
        """Some writers store a tied head although it follows; then it must be the embedding."""
        embedding, own = self._checkpoint.tensor(self._places["embed.weight"].name), self._checkpoint.tensor(head)
        if embedding.shape != own.shape or not torch.equal(embedding, own):
            raise CheckpointError(
                f"{self.spec.name}: tensor {head!r} differs from the embedding, but config.json says tie_word_embeddings=true; "
                "set it to false"
            )

    def _format(self) -> str:
        """bf16 if it holds every matrix exactly, otherwise fp32, which always does.

        Plain floats count by their type, quantised matrices by their values: the unpacked weights are what the checkpoint
        means, and no default may round them. The smallest matrices are looked at first; most say no at once.
        """
        kinds = self._kinds()
        if set(kinds) <= set(_FLOATS):
            return "bf16" if set(kinds) == {"BF16"} else "fp32"
        matrices = sorted(self._matrices(), key=lambda name: self._checkpoint.shapes[name][0] * self._checkpoint.shapes[name][1])
        return "bf16" if all(self._fits_bf16(name) for name in matrices) else "fp32"

    def _say(self) -> None:
        """One line where matrices are not computed in the type that they are stored in, and on what else the user should know."""
        kinds, more = self._kinds(), f"; {self._checkpoint.note}" if self._checkpoint.note else ""
        if set(kinds) <= set(_FLOATS):
            if len(kinds) > 1 or "F16" in kinds:
                names = " and ".join(sorted(_FLOATS[kind] for kind in kinds))
                _log.warning("%s: stored as %s; linear layers are converted to fp32 (exact, more memory)", self.spec.name, names)
            return
        counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
        native = {place.name: self._native(name) for name, place in self._places.items()}
        if all(kind in _FLOATS or native[name] for name, kind in self._matrices().items()):
            _log.info("%s: matrices are stored as %s, which can run as they are%s", self.spec.name, counts, more)
            return
        why = "which holds every value exactly" if self.format == "bf16" else "since bf16 would round them; quant='int8' takes a quarter"
        _log.warning("%s: matrices are stored as %s; they are unpacked to %s, %s%s", self.spec.name, counts, self.format, why, more)

    def _matrices(self) -> dict[str, str]:
        """Stored matrices: name -> kind."""
        names = (place.name for parameter, place in self._places.items() if self._wanted[parameter].role in _MATRICES)
        return {name: self._checkpoint.kind(name) for name in names}

    def _kinds(self) -> dict[str, int]:
        return dict(Counter(self._matrices().values()))

    def _fits_bf16(self, name: str) -> bool:
        kind = self._checkpoint.kind(name)
        if kind in _FLOATS:
            return kind == "BF16"
        shape = self._checkpoint.shapes[name]
        stacks = range(shape[0]) if len(shape) == 3 else (None,)
        parts = (part for number in stacks for part in self._checkpoint.tensor(name, number).split(4096))
        return all(torch.equal(part.bfloat16().float(), part) for part in parts)


def taken(stored: Tensor, place: Place) -> Tensor:
    """The part of a stored tensor that is the parameter, rows in order. A view where that is possible."""
    if place.transposed:
        stored = stored.T
    if isinstance(place.rows, range):
        stored = stored[place.rows.start : place.rows.stop : place.rows.step]
    elif place.rows is not None:
        stored = stored[torch.tensor(place.rows)]
    if place.columns is not None:
        stored = stored[:, place.columns.start : place.columns.stop]
    return stored.contiguous()


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more} {'are' if len(names) > 1 else 'is'}"
