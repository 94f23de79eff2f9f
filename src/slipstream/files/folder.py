"""Which GGUF file a path means. Owns the choice between files of a folder; must not know what they hold."""

import re
from pathlib import Path

from slipstream.base.errors import InputError
from slipstream.files.gguf import is_gguf
from slipstream.files.safetensors import INDEX, SINGLE

_LATER_SHARD = re.compile(r".*-(?!00001)\d{5}-of-\d{5}\.gguf")


_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)")


def model_name(path: Path) -> str:
    """What to call a model in messages: the folder's or file's name, "org/name" for a folder of the shared cache."""
    if path.is_file():
        return path.stem
    path = path.resolve()
    cached = _SNAPSHOT.fullmatch(path.parent.parent.name) if path.parent.name == "snapshots" else None
    return f"{cached[1]}/{cached[2]}" if cached else path.name


def model_gguf(path: Path) -> Path | None:
    """The GGUF file of a model: `path` itself, or the only one in the folder `path` that has no safetensors; None if there is none.

    Raises:
        InputError: a file that is not GGUF, or a folder with several.
    """
    if path.is_file():
        if is_gguf(path):
            return path
        raise InputError(f"model={str(path)!r}: is a file, but not a GGUF file; give a *.gguf file or a folder in the Hugging Face layout")
    if not path.is_dir() or (path / INDEX).is_file() or (path / SINGLE).is_file():
        return None
    found = sorted(file for file in path.glob("*.gguf") if not _LATER_SHARD.fullmatch(file.name) and not file.name.startswith("mmproj"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(f"model={str(path)!r}: holds several GGUF files ({names}); give the path of one of them")
    return found[0] if found else None
