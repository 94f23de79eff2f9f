"""One server for most tests, started once; those that end a server start their own."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import folder  # noqa: F401  a tiny checkpoint with a tokenizer

NEEDED = ("fastapi", "uvicorn", "msgspec", "zmq", "prometheus_client", "httpx", "openai", "psutil")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if MISSING:  # test_installed.py says so
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_installed.py"]
else:
    from tests.server.harness import serving

CONTEXT = 32768
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
OPTIONS = ("--max-len", str(CONTEXT), "--max-batch", "8", "--model-name", "tiny")


@pytest.fixture(scope="session")
def model(folder, tmp_path_factory) -> str:  # noqa: F811
    """The tiny checkpoint with a long context and a chat template."""
    path = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "<end>"}))
    return str(path)


@pytest.fixture(scope="session")
def server(model, tmp_path_factory):
    """The shared server; 64 texts may wait beside 8 that run."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(log, model, *OPTIONS, "--max-queue", "64", "--write-timeout", "2") as running:
        yield running


@pytest.fixture
def own(model, tmp_path):
    """Starts servers that a test may break: own("--option", ...) in a with statement."""
    return lambda *options, **more: serving(tmp_path / "log", model, *OPTIONS, *options, **more)
