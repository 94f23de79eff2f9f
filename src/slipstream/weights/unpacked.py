"""A quantised safetensors checkpoint as a plain one: every quantised layer has a weight that is unpacked when asked for.

Owns the gathering of a layer's stored tensors. Must not know how any format packs.
"""

from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.scheme import Scheme
from slipstream.weights.checkpoint import Checkpoint


class Unpacked:
    """`Stored` of a checkpoint whose linear layers are quantised.

    Args:
        checkpoint: the open folder.
        scheme: how they are stored.

    Raises:
        CheckpointError: a layer lacks one of its tensors, or their shapes contradict each other.
    """

    config = "config.json"
    layout = None

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme):
        self._checkpoint, self._scheme, self.note = checkpoint, scheme, scheme.note
        entries, self.files, self.metadata = checkpoint.entries, checkpoint.files, checkpoint.metadata
        self._layers: dict[str, dict[str, str]] = {}  # name of the weight -> ending -> name of the stored tensor
        hidden = {name for name in entries if name.rpartition(".")[2] in scheme.unused}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, entry in entries.items():
            stem, _, ending = name.rpartition(scheme.joint)
            if ending == scheme.key and entry.dtype in scheme.dtypes:
                parts = {end: stem + scheme.joint + end for end in (scheme.key, *scheme.needed, *scheme.optional)}
                parts = {end: part for end, part in parts.items() if part in entries}
                self._check(stem, parts)
                self._layers[stem + scheme.weight] = parts
                hidden.update(parts.values())
                self.shapes[stem + scheme.weight] = scheme.shape({end: entries[part].shape for end, part in parts.items()})
        if not self._layers:
            raise CheckpointError(
                f"quantization_config: says {scheme.name}, but no tensor is called *{scheme.joint}{scheme.key} "
                f"with type {' or '.join(scheme.dtypes)}; take the config.json that belongs to these weights"
            )
        self.shapes |= {name: entry.shape for name, entry in entries.items() if name not in hidden and name not in self.shapes}

    def kind(self, name: str) -> str:
        """See `Stored.kind`."""
        return self._scheme.name if name in self._layers else self._checkpoint.kind(name)

    def native(self, name: str) -> str | None:
        """See `Stored.native`."""
        if name not in self._layers or self._scheme.native is None or len(self.shapes[name]) != 2:
            return None
        return self._scheme.native(self._raw(name), self.shapes[name][1])

    def laid_out(self, name: str, number: int | None = None) -> dict[str, Tensor]:
        """See `Stored.laid_out`; stacks are not native."""
        try:
            return self._scheme.lay_out(self._raw(name), self.shapes[name])
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name!r}: {error}") from error

    def _raw(self, name: str) -> dict[str, Tensor]:
        return {end: self._checkpoint.raw(part) for end, part in self._layers[name].items()}

    def tensor(self, name: str, number: int | None = None) -> Tensor:
        """See `Stored.tensor`."""
        if name not in self._layers:
            return self._checkpoint.tensor(name, number)
        stored = self._raw(name)
        try:
            if number is not None:
                return self._scheme.unpack({end: part[number] for end, part in stored.items()}, self.shapes[name][1:])
            return self._scheme.unpack(stored, self.shapes[name])
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name!r}: {error}") from error

    def _check(self, stem: str, parts: dict[str, str]) -> None:
        for end in self._scheme.needed:
            if end not in parts:
                name = stem + self._scheme.joint + end
                raise CheckpointError(f"tensor {name!r} is missing, which {self._scheme.name} needs; fetch the whole checkpoint")
