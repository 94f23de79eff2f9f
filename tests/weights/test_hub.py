"""Ids of the hub: the cache first, the network only where it must, and never for long. No test here has a network."""

import json
import socket
import time
from types import SimpleNamespace

import pytest
import torch

from slipstream.base.errors import InputError
from slipstream.model.build import open_weights
from slipstream.weights import hub
from slipstream.weights.aliases import ALIASES
from tests.weights import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a network that must not be touched."""

    def refuse(*args, **kwargs):
        raise AssertionError("touched the network")

    for name in ("HF_HUB_OFFLINE", "HF_HOME", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "hub"


def snapshot(cache, repo="org/name", revision="main"):
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(COMMIT)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_cached_model_is_loaded_without_network(cache):
    tiny.write(snapshot(cache), tiny.random_weights())
    found = open_weights("org/name")
    assert found.spec.name == "org/name" and found.get("norm.weight").shape == (256,)
    assert hub.locate("org/name@main") == hub.locate("org/name") == snapshot(cache)
    assert hub.locate(f"org/name@{COMMIT}") == snapshot(cache)


def test_a_path_is_never_an_id(cache, tmp_path, monkeypatch):
    tiny.write(tmp_path / "org" / "name", tiny.random_weights())
    monkeypatch.chdir(tmp_path)
    assert open_weights("org/name").spec.name == "name"
    for path in (tmp_path / "nowhere", "./org/none", "../x", "/a/b", "a/b/c", "name.gguf", "~/models"):
        assert hub.parse(path) is None and hub.locate(path).name


def test_a_short_name_is_the_id_it_stands_for(cache):
    for name, id in ALIASES.items():
        assert hub.parse(name) == hub.parse(id) and str(hub.parse(id)) == id and name == name.lower() and "/" not in name
    assert hub.parse("SmolLM2-135M") == hub.Id("HuggingFaceTB/SmolLM2-135M-Instruct")
    tiny.write(snapshot(cache, ALIASES["smollm2-135m"]), tiny.random_weights())
    assert open_weights("smollm2-135m").spec.name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    with pytest.raises(InputError, match=r"'llama-3.2-1': .*did you mean 'llama-3.2-1b'"):
        hub.locate("llama-3.2-1")


def test_a_folder_called_like_a_short_name_is_the_folder(cache, tmp_path, monkeypatch):
    tiny.write(tmp_path / "gpt2", tiny.random_weights())
    monkeypatch.chdir(tmp_path)
    assert hub.parse("gpt2") is None and open_weights("gpt2").spec.name == "gpt2"


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/x/hf")
    assert str(hub.cache()) == "/x/hf/hub"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/y")
    assert str(hub.cache()) == "/y/huggingface/hub"


def test_the_same_place_as_huggingface_hub(cache):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import snapshot_download

    folder = snapshot(cache)
    tiny.write(folder, tiny.random_weights())
    theirs = snapshot_download("org/name", cache_dir=cache, local_files_only=True)
    assert hub.locate("org/name") == folder and str(folder) == str(theirs)


def test_gguf_files_of_a_repository(cache):
    folder = snapshot(cache)
    for name in ("m-Q8_0.gguf", "m.Q4_0.gguf", "m-Q6_K-00001-of-00002.gguf", "mmproj-Q8_0.gguf"):
        (folder / name).write_bytes(b"GGUF")
    assert hub.locate("org/name:Q8_0").name == "m-Q8_0.gguf" and hub.locate("org/name:q4_0").name == "m.Q4_0.gguf"
    with pytest.raises(InputError, match=r"several GGUF files \(m-Q6_K-00001-of-00002.gguf, m-Q8_0.gguf, m.Q4_0.gguf\); name the one as"):
        hub.locate("org/name")
    with pytest.raises(InputError, match=r"no GGUF file 'Q5_0'; it has m-Q6_K"):
        hub.locate("org/name:Q5_0")
    assert hub.cached(hub.Id("org/name", quant="Q6_K")) is None  # a shard is missing
    (folder / "m-Q6_K-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert hub.locate("org/name:Q6_K").name == "m-Q6_K-00001-of-00002.gguf"


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_says_so_at_once(monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"model='org/name': is not in the cache \(.*hub\), and HF_HUB_OFFLINE forbids.*give a folder"):
        open_weights("org/name")
    assert time.monotonic() - begin < 0.5


def test_no_network_ends_soon():
    pytest.importorskip("huggingface_hub")
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"model='org/name': is no path here and not in the cache .*the hub cannot be reached"):
        hub.locate("org/name")
    assert time.monotonic() - begin < hub.SECONDS + 5


class Fake:
    """huggingface_hub as far as it is used, with a repository or an error."""

    def __init__(self, cache, files=(), error=None, wait=0.0):
        from huggingface_hub import errors

        self.errors, self.cache, self.files, self.error, self.wait = errors, cache, dict(files), error, wait
        self.calls = []

    def HfApi(self):  # noqa: N802, the library's name
        return self

    def model_info(self, repo, revision, timeout):
        self.calls.append(("info", repo, revision))
        time.sleep(self.wait)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, repo, revision, allow_patterns):
        self.calls.append(("download", sorted(allow_patterns)))
        folder = snapshot(self.cache, repo, revision)
        for name in allow_patterns:
            (folder / name).write_bytes(self.files[name])


@pytest.fixture
def fake(cache, monkeypatch):
    pytest.importorskip("huggingface_hub")

    def make(**more):
        made = Fake(cache, **more)
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", made)
        return made

    return make


def files_of(tmp_path):
    folder = tiny.write(tmp_path / "made", tiny.random_weights())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_downloads_what_a_model_needs_and_nothing_else(fake, tmp_path):
    files = files_of(tmp_path)
    other = ("README.md", "pytorch_model.bin", "original/consolidated.00.pth", "x.onnx", "m.gguf", "modeling_x.py")
    made = fake(files={**files, "tokenizer.json": b"{}", "chat_template.jinja": b"x", **dict.fromkeys(other, b"")})
    assert torch.equal(open_weights("org/name").get("norm.weight"), tiny.random_weights()["model.norm.weight"])
    assert made.calls[1] == ("download", ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"])
    assert hub.locate("org/name") and len(made.calls) == 2  # the second time it is cached


def test_downloads_one_gguf_file(fake):
    made = fake(files={"a-Q8_0.gguf": b"GGUF", "a-Q4_0.gguf": b"GGUF", "README.md": b""})
    assert hub.locate("org/name:Q4_0").name == "a-Q4_0.gguf" and made.calls[1] == ("download", ["a-Q4_0.gguf"])
    with pytest.raises(InputError, match="has several GGUF files"):
        hub.locate("org/other")


def test_a_part_of_a_model_is_completed(fake, cache, tmp_path):
    (snapshot(cache) / "config.json").write_text("{}")
    made = fake(files=files_of(tmp_path))
    assert hub.locate("org/name") == snapshot(cache) and len(made.calls) == 2
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot(cache) / "model.safetensors").unlink()
    (snapshot(cache) / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot(cache) / "model-1.safetensors").write_bytes(b"")
    assert hub.cached(hub.Id("org/name")) is None
    (snapshot(cache) / "model-2.safetensors").write_bytes(b"")
    assert hub.cached(hub.Id("org/name")) == snapshot(cache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedRepoError", r"is gated: accept its terms at https://huggingface\.co/org/name, then log in"),
        ("RepositoryNotFoundError", "is neither a path here nor a model on the hub .*check the spelling"),
        ("RevisionNotFoundError", "has no revision 'v9'; leave out @v9"),
        ("HfHubHTTPError", "cannot be downloaded: HfHubHTTPError: told so; try again later"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
    ],
)
def test_refusals_name_the_way_out(fake, name, message):
    from huggingface_hub import errors

    kind = getattr(errors, name)
    error = kind.__new__(kind)
    error.args = ("told so",)
    fake(error=error)
    with pytest.raises(InputError, match=message):
        hub.locate("org/name@v9")


def test_only_pickles_are_refused_before_they_are_fetched(fake):
    made = fake(files={"config.json": b"{}", "pytorch_model.bin": b""})
    with pytest.raises(InputError, match="only pickles"):
        hub.locate("org/name")
    fake(files={"config.json": b"{}"})
    with pytest.raises(InputError, match="neither safetensors nor GGUF"):
        hub.locate("org/name")
    assert len(made.calls) == 1


def test_a_network_that_hangs_is_given_up(fake, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    fake(wait=30.0)
    begin = time.monotonic()
    with pytest.raises(InputError, match="no answer within 0.2 s"):
        hub.locate("org/name")
    assert time.monotonic() - begin < 5


def test_without_the_package_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install huggingface_hub; or give a folder"):
        hub.locate("org/name")
