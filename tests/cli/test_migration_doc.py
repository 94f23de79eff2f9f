"""docs/migrate.md names only what exists, and calls nothing absent that does."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

from slipstream.base.config import Options
from slipstream.cli.main import app
from slipstream.server import routes, schemas
from slipstream.server.embeddings import __file__ as embeddings
from slipstream.step import SamplingParams

DOC = Path(__file__).parents[2] / "docs" / "migrate.md"
COMMANDS = typer.main.get_command(app).commands
PARAMS = {field.name for field in fields(SamplingParams)}
BODIES = (schemas.CompletionRequest, schemas.ChatRequest, schemas.EmbeddingRequest)
REQUEST = {name for body in BODIES for name in body.model_fields} - set(schemas.Ignored.model_fields)
ROUTES = set(re.findall(r'@router\.(\w+)\("([^"]+)"', Path(embeddings).read_text() + inspect.getsource(routes)))


def flags(command: str) -> set[str]:
    """The options of a command and the environment variables that stand for them."""
    return {name for option in COMMANDS[command].params for name in (*option.opts, option.envvar) if name}


def exists(column: str, name: str) -> bool:
    """Whether `name` is there, in the place that the column is about."""
    if found := re.fullmatch(r"LLM\((\w+)\)", name):
        return found[1] in {field.name for field in fields(Options)}
    if found := re.fullmatch(r"(GET|POST) (/\S+)", name):
        return (found[1].lower(), found[2]) in ROUTES
    if found := re.fullmatch(r"(\w+) (--\S+)", name):
        return found[2] in flags(found[1])
    return name in (PARAMS if column == "SamplingParams" else REQUEST if column == "request" else flags(column))


def rows() -> list[tuple[dict[str, list[str]], list[str], str]]:
    """Of each row: names by Slipstream column, the peer's names, the note."""
    out, header = [], []
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not header:
            header = cells
        elif not line.startswith("|---"):
            assert len(cells) == len(header), line
            names = [re.findall(r"`([^`]+)`", cell) for cell in cells]
            ours = {title.removeprefix("Slipstream "): found for title, found in zip(header, names, strict=True) if "Slipstream" in title}
            out.append((ours, names[0], cells[-1]))
    return out


def test_every_name_in_a_slipstream_column_exists():
    checked = [(column, name) for ours, _, _ in rows() for column, names in ours.items() for name in names]
    assert len(checked) > 100 and {column for column, _ in checked} == {"serve", "run", "SamplingParams", "request"}
    assert not [(column, name) for column, name in checked if not exists(column, name)]


def test_nothing_is_called_absent_that_is_there():
    gone = [(ours, theirs) for ours, theirs, note in rows() if note.startswith(("not yet", "never"))]
    absent = [(column, name) for ours, theirs in gone for column in ours for name in theirs]
    assert len(absent) > 40
    assert not [(column, name) for column, name in absent if exists(column, name)]


def test_every_option_and_field_is_in_the_document():
    """Whoever adds one says what it replaces."""
    text = DOC.read_text(encoding="utf-8")
    known = PARAMS | {name for name in flags("serve") if not name.startswith("--no-")} - {"model", "--help", "--kernels"}
    assert not [name for name in known if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("column", "name"), [("serve", "--device-map"), ("run", "LLM(pages)"), ("request", "grammar"), ("serve", "GET /props")]
)
def test_the_check_can_fail(column, name):
    assert not exists(column, name)
