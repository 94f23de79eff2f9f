"""What trained drafters have in common: where their heads lie. Owns the search; what a head is, arch/heads.py says."""

from pathlib import Path

from slipstream.base.errors import InputError


def found(kind: str, path: str, source: Path | str) -> Path | str:
    """The folder of a head: the one that the user named, or the one that comes with the checkpoint.

    Args:
        kind: of head, also the name of its drafter.
        path: the user's; empty if there is none.
        source: the model that is drafted for. So far only the built-in one brings heads; they lie beside it.

    Raises:
        InputError: there is none.
    """
    if path:
        return path
    beside = Path(source).parent / kind
    if Path(source).name == "demo" and (beside / "config.json").is_file():
        return beside
    raise InputError(
        f"speculate={kind!r}: no head comes with {source}; name one, {kind}:path=FOLDER, or train one: slipstream train drafter"
    )
