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

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme):
        self._checkpoint, self._scheme, self.note = checkpoint, scheme, scheme.note
        entries = checkpoint.entries
        self._layers: dict[str, dict[str, str]] = {}  # name of the weight -> ending -> name of the stored tensor
        hidden = {name for name in entries if name.rpartition(".")[2] in scheme.unused}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, entry in entries.items():
            stem, _, ending = name.rpartition(".")
            if ending == scheme.key and entry.dtype in scheme.dtypes:
                parts = {end: f"{stem}.{end}" for end in (scheme.key, *scheme.needed, *scheme.optional) if f"{stem}.{end}" in entries}
                self._check(stem, parts)
                self._layers[f"{stem}.weight"] = parts
                hidden.update(parts.values())
                self.shapes[f"{stem}.weight"] = scheme.shape({end: entries[part].shape for end, part in parts.items()})
        if not self._layers:
            raise CheckpointError(
                f"quantization_config: says {scheme.name}, but no tensor is called *.{scheme.key} with type {' or '.join(scheme.dtypes)}; "
                "take the config.json that belongs to these weights"
            )
        self.shapes |= {name: entry.shape for name, entry in entries.items() if name not in hidden and name not in self.shapes}

    def kind(self, name: str) -> str:
        """See `Stored.kind`."""
        return self._scheme.name if name in self._layers else self._checkpoint.kind(name)

    def tensor(self, name: str) -> Tensor:
        """See `Stored.tensor`."""
        if name not in self._layers:
            return self._checkpoint.tensor(name)
        stored = {end: self._checkpoint.raw(part) for end, part in self._layers[name].items()}
        try:
            return self._scheme.unpack(stored, self.shapes[name])
        except CheckpointError as error:
            raise CheckpointError(f"tensor {name!r}: {error}") from error

    def _check(self, stem: str, parts: dict[str, str]) -> None:
        for end in self._scheme.needed:
            if end not in parts:
                raise CheckpointError(f"tensor '{stem}.{end}' is missing, which {self._scheme.name} needs; fetch the whole checkpoint")
