"""Models by their id on the Hugging Face hub: "org/name", from the cache that every tool shares, else downloaded.

    org/name[@revision]              a folder of safetensors
    org/name[@revision]:Q4_0         one GGUF file out of a repository of several
    llama-3.2-1b                     a short name for one of them, see aliases.py

Owns the cache's layout (huggingface_hub, docs "Understand caching") and the way to the network, which only an id that is not
cached takes. A path that exists never does. Must not know what the files hold.
"""

import difflib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.base.errors import InputError
from slipstream.files.safetensors import INDEX, SINGLE
from slipstream.weights.aliases import ALIASES

SECONDS = 10.0  # for the first answer of the hub; without one there is no network
_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<quant>[\w.-]+))?")
_WORD = re.compile(r"(?!\.)(?!.*\.gguf$)[\w.-]+")  # "./name" says that a path is meant
_TRUE = ("1", "ON", "YES", "TRUE")
_WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|hf_quant_config)\.json|tokenizer\.model"
    r"|model.*\.safetensors|model\.safetensors\.index\.json|(additional_chat_templates/)?[\w.-]+\.jinja"
)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Id:
    """A model on the hub.

    Attributes:
        repo: "org/name".
        revision: branch, tag or commit.
        quant: which GGUF file; "" where there is one, or none.
    """

    repo: str
    revision: str = "main"
    quant: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision != "main" else ""
        return f"{self.repo}{revision}{':' + self.quant if self.quant else ''}"


def parse(model: Path | str) -> Id | None:
    """The id that `model` is or stands for; None for an existing path and for what cannot be an id."""
    found = None if Path(model).exists() else _ID.fullmatch(ALIASES.get(str(model).lower(), str(model)))
    return Id(found["repo"], found["revision"] or "main", found["quant"] or "") if found else None


def locate(model: Path | str) -> Path:
    """The folder or GGUF file of a model; downloads it if it is an id that is not cached.

    Args:
        model: a path, an id or a short name.

    Raises:
        InputError: an id that is not cached and cannot be downloaded, or a word that is neither path nor name; says the way out.
    """
    wanted = parse(model)
    if wanted is None:
        if _WORD.fullmatch(str(model)) and not Path(model).exists():
            raise _stranger(str(model))
        return Path(model)
    found = cached(wanted)
    if found is not None:
        return found
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise _error(wanted, f"is not in the cache ({cache()}), and HF_HUB_OFFLINE forbids to download it; unset it, or give a folder")
    _download(wanted)
    found = cached(wanted)
    if found is None:
        raise _error(wanted, f"was downloaded, but {cache()} holds no complete model; run again, or remove it there")
    return found


def _stranger(word: str) -> InputError:
    near = difflib.get_close_matches(word.lower(), ALIASES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(
        f"model={word!r}: is neither a path here nor a short name; {hint}`slipstream models` lists those; give a folder, a GGUF file or "
        "an id org/name of the hub"
    )


def cache() -> Path:
    """The folder of the shared cache."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def cached(wanted: Id) -> Path | None:
    """The folder or GGUF file of a model in the cache, if all of it is there."""
    root = cache() / f"models--{wanted.repo.replace('/', '--')}"
    reference = root / "refs" / wanted.revision
    commit = reference.read_text(encoding="ascii", errors="replace").strip() if reference.is_file() else wanted.revision
    folder = root / "snapshots" / commit
    if not re.fullmatch(r"[\w.-]+", commit) or not folder.is_dir():
        return None
    if not wanted.quant and _has_safetensors(folder):
        return folder
    names = [path.name for path in folder.glob("*.gguf")]
    chosen = _of_quant(wanted, names) if names else []
    return folder / chosen[0] if chosen and len(chosen) == _shards(chosen[0]) else None


def _has_safetensors(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    if (folder / INDEX).is_file():
        try:
            placed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            return all((folder / name).is_file() for name in set(placed.values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return True  # damaged: its reader says how
    return (folder / SINGLE).is_file()


def _of_quant(wanted: Id, names: Iterable[str]) -> list[str]:
    """The shards of the GGUF file that is meant, in order.

    Raises:
        InputError: there are several, or none of that kind.
    """
    models = sorted(name for name in names if name.endswith(".gguf") and not name.startswith("mmproj"))
    part = re.compile(rf"(?:^|[-._/]){re.escape(wanted.quant)}(?:[-._]|$)", re.IGNORECASE)
    chosen = [name for name in models if not wanted.quant or part.search(name)]
    if len({_SHARD.sub("", name) for name in chosen}) == 1:
        return chosen
    choice = ", ".join(name for name in models if not _SHARD.search(name) or "-00001-of-" in name)
    if not chosen:
        raise _error(wanted, f"has no GGUF file {wanted.quant!r}; it has {choice or 'none'}; name one as {wanted.repo}:Q8_0")
    raise _error(wanted, f"has several GGUF files ({choice}); name the one as {wanted.repo}:Q8_0")


def _shards(name: str) -> int:
    found = _SHARD.search(name)
    return int(found[2]) if found else 1


def _download(wanted: Id) -> None:
    """Fetches what a model needs into the cache, with a progress bar."""
    try:
        from huggingface_hub import HfApi, errors, snapshot_download
    except ImportError as error:
        raise _error(
            wanted, f"is no folder and not in the cache ({cache()}); to download it: pip install huggingface_hub; or give a folder"
        ) from error
    info = _answer(wanted, errors, lambda: HfApi().model_info(wanted.repo, revision=wanted.revision, timeout=SECONDS))
    names = [file.rfilename for file in info.siblings or ()]
    files = _files(wanted, names)
    _guarded(wanted, errors, lambda: snapshot_download(wanted.repo, revision=wanted.revision, allow_patterns=files))


def _files(wanted: Id, names: list[str]) -> list[str]:
    """Which files of a repository make the model."""
    safe = [name for name in names if _WANTED.fullmatch(name)]
    if not wanted.quant and any(name.endswith(".safetensors") for name in safe):
        return safe
    if any(name.endswith(".gguf") for name in names):
        return _of_quant(wanted, [name for name in names if "/" not in name])
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise _error(wanted, "has only pickles, which can run any code when loaded and are never opened; take a model with *.safetensors")
    raise _error(wanted, "has neither safetensors nor GGUF files; take another model")


def _answer(wanted: Id, errors: Any, ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or an error after SECONDS, whatever the network does (a name that does not resolve can hang)."""
    out: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            out.append(_guarded(wanted, errors, ask))
        except BaseException as error:  # handed over to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="hub")
    thread.start()
    thread.join(SECONDS)
    if failed:
        raise failed[0]
    if not out:
        raise _unreachable(wanted, f"no answer within {SECONDS:g} s")
    return out[0]


def _guarded(wanted: Id, errors: Any, ask: Callable[[], Any]) -> Any:
    """Runs `ask`; whatever the hub or the network says becomes an error with the way out."""
    try:
        return ask()
    except errors.GatedRepoError as error:
        way = f"accept its terms at https://huggingface.co/{wanted.repo}, then log in with `hf auth login` or set HF_TOKEN"
        raise _error(wanted, f"is gated: {way}") from error
    except errors.RepositoryNotFoundError as error:
        raise _error(
            wanted, "is neither a path here nor a model on the hub (or a private one: log in with `hf auth login`); check the spelling"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _error(wanted, f"has no revision {wanted.revision!r}; leave out @{wanted.revision} for the newest") from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(wanted, _short(error)) from error
    except errors.HfHubHTTPError as error:
        raise _error(wanted, f"cannot be downloaded: {_short(error)}; try again later, or give a folder") from error
    except Exception as error:  # the network library differs between versions of huggingface_hub
        if isinstance(error, InputError):
            raise
        raise _unreachable(wanted, _short(error)) from error


def _unreachable(wanted: Id, why: str) -> InputError:
    where = f"is no path here and not in the cache ({cache()})"
    return _error(wanted, f"{where}, and the hub cannot be reached ({why}); give a folder or a cached id")


def _error(wanted: Id, what: str) -> InputError:
    return InputError(f"model={str(wanted)!r}: {what}")


def _short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."
