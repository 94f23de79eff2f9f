"""`slipstream models`: what can be run here, and under which name. Owns the list and its look."""

from typing import TYPE_CHECKING

import typer

from slipstream.base.errors import InputError

if TYPE_CHECKING:
    from slipstream.weights.hub import Id

WIDTH = 44

NOTES = {  # on what is built in
    "demo": "taken where no model is named",
    "draft": "guesses ahead for demo: --speculate draft_model",
}


def models() -> None:
    """Lists what can be named as a model: cached ones of the hub, the built-in one, short names of the hub's and named shapes."""
    parts = (
        ("hub cache", cached_rows()),
        ("built in", builtin_rows()),
        ("short names (downloaded once, when they are run)", alias_rows()),
        ("shapes (random weights)", shape_rows()),
    )
    for title, rows in parts:
        typer.echo(title)
        for name, size, note in rows:
            typer.echo(f"  {name:<{WIDTH}}{size:>11}  {note}".rstrip())


def cached_rows() -> list[tuple[str, str, str]]:
    """(id, size on disk, state) of each model in the shared cache; one row saying why there are none."""
    from slipstream.weights import hub

    where = hub.cache()
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return [("unknown: huggingface_hub is not installed; pip install huggingface_hub", "", "")]
    try:
        found = scan_cache_dir(where)
    except (CacheNotFound, ValueError):
        return [(f"none: there is no cache at {where} (HF_HUB_CACHE, HF_HOME)", "", "")]
    repos = sorted((repo for repo in found.repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id)
    rows = [(repo.repo_id, _human(repo.size_on_disk), state(hub.parse(repo.repo_id))) for repo in repos]
    rows += [(f"damaged: {warning}", "", "") for warning in found.warnings]
    return rows or [(f"none in {where}; `slipstream run --model org/name` downloads one", "", "")]


def state(wanted: "Id | None") -> str:
    """Whether an id can be run as it lies in the cache."""
    from slipstream.weights import hub

    if wanted is None:
        return "not usable: its name is no id org/name"
    try:
        found = hub.cached(wanted)
    except InputError as error:  # several GGUF files: the error lists them
        return str(error).partition(": ")[2]
    return "ready" if found is not None else "not complete; running it downloads the rest"


def builtin_rows() -> list[tuple[str, str, str]]:
    from slipstream.arch.heads import KINDS
    from slipstream.engine.build import BUILTIN

    notes = NOTES | {kind: f"a head of demo, guesses ahead for it: --speculate {kind}" for kind in KINDS}
    found = sorted(folder for folder in BUILTIN.iterdir() if (folder / "config.json").is_file()) if BUILTIN.is_dir() else []
    rows = []
    for folder in found:
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        rows.append((folder.name, _human(size), notes.get(folder.name, "")))
    return rows or [("none in this checkout", "", "")]


def alias_rows() -> list[tuple[str, str, str]]:
    """(short name, "cached" if nothing needs to be downloaded, what it stands for)."""
    from slipstream.weights import hub
    from slipstream.weights.aliases import ALIASES

    return [(name, "cached" if hub.cached(hub.parse(id)) else "", id) for name, id in ALIASES.items()]


def shape_rows() -> list[tuple[str, str, str]]:
    from slipstream.arch.shapes import SHAPES, shape
    from slipstream.cost import weights_bytes

    specs = {name: shape(name) for name in SHAPES}
    return [
        (f"dummy:{name}", _human(weights_bytes(spec, "bf16")), f"in bf16; {spec.parameters() / 1e6:,.1f} M parameters")
        for name, spec in specs.items()
    ]


def _human(size: int) -> str:
    from slipstream.cost.memory import human

    return human(size)
