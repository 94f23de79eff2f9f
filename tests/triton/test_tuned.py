"""Tables of fast settings as files: every table comes back as it was written, and what is broken is refused by name."""

import importlib.util
import json
import os
from dataclasses import MISSING, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.base.errors import InputError
from slipstream.hardware.gpu import Gpu
from slipstream.ops.triton import tuned
from tests.tools.package import FOLDER

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
OWN = {"case": "packed_forms", "commit": "abc", "date": "2026-11-26", "gpu": "NVIDIA H200"}


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a process that has read no table yet, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for cached in (tuned.source, tuned.current):
        cached.cache_clear()
    yield tmp_path
    for cached in (tuned.source, tuned.current):
        cached.cache_clear()


def ways(kind: type, most: int = 1) -> st.SearchStrategy:
    """Any way of this dataclass that can be made and serves so many rows."""
    values = {field.name: st.integers(0, 1 << 31) if field.type is int else st.just(field.default) for field in fields(kind)}
    if kind.__name__ == "Carried":
        values |= {"deep": st.sampled_from([2, 4]), "wide": st.just(2), "each": st.just(32)}
    if hasattr(kind, "up_to"):
        values["rows"] = st.just(most)
    return st.builds(kind, **values)


@st.composite
def entries(draw, table):
    if isinstance(table, tuned.ByName):
        return draw(st.dictionaries(st.sampled_from(table.names), st.integers(1, 9999) if table.kind is int else ways(table.kind)))
    bounds = sorted(draw(st.sets(st.integers(1, tuned.ALL - 1), max_size=3))) + [tuned.ALL]
    words = st.sampled_from(table.words) if table.words else st.nothing()

    def way(number: int, most: int):
        return draw(st.one_of(*(ways(kind, most) for kind in table.columns[number].values()), st.nothing() if number else words))

    return tuple((most, *(way(number, most) for number in range(len(table.columns)))) for most in bounds)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_tables_come_back(tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(tuned.tables())))
    found = {name: tuned.Tuned(data.draw(entries(tuned.tables()[name])), data.draw(st.sampled_from([OWN, "not measured"])))}
    path = tmp_path_factory.getbasetemp() / "any" / "tables.json"
    tuned.write(path, "a GPU", found)
    assert tuned.read(path) == found and os.listdir(path.parent) == ["tables.json"]


def test_what_ships_is_whole(tmp_path):
    """Beside the sources: what is installed is a copy of the folder."""
    shipped = tuned.read(tuned.shipped_file())
    assert set(shipped) == set(tuned.tables()) and tuned.shipped_file().is_relative_to(FOLDER)
    tuned.write(tmp_path / "again.json", "NVIDIA H200", shipped)
    assert tuned.read(tmp_path / "again.json") == shipped


STREAM = {"rows": 8, "stream": {"rows": 8}}
LAST = {"rows": None, "way": "unpacked"}
BROKEN = [
    ("coarze", [LAST], r"table='coarze': unknown; did you mean 'coarse'"),
    ("coarse", [], "entries=.*list of objects"),
    ("coarse", [STREAM], r"rows=\[8\]: bounds must ascend, and null be the last"),
    ("coarse", [STREAM, STREAM, LAST], r"rows=\[8, 8, None\]: bounds must ascend"),
    ("coarse", [STREAM, LAST, LAST], "bounds must ascend"),
    ("coarse", [STREAM | {"rows": 0}, LAST], "rows=0: must be a number of rows from 1 on"),
    ("coarse", [STREAM | {"rows": True}, LAST], "rows=True"),
    ("coarse", [STREAM | {"wey": "tiles"}, LAST], "field='wey': unknown; did you mean 'way'"),
    ("coarse", [{"rows": 8}, LAST], "must have one of stream, folded, carried, way"),
    ("coarse", [STREAM | {"way": "tiles"}, LAST], "must have one of"),
    ("coarse", [{"rows": 8, "way": "unpacks"}, LAST], "way='unpacks': unknown; did you mean 'unpacked'"),
    ("coarse", [{"rows": 8, "stream": {"rows": 8, "dep": 4}}, LAST], "stream: field='dep': unknown; did you mean 'deep'"),
    ("coarse", [{"rows": 8, "stream": {"rows": "8"}}, LAST], "stream: rows='8': must be a whole number"),
    ("coarse", [{"rows": 8, "stream": {"deep": 4}}, LAST], "has no rows"),
    ("coarse", [{"rows": 8, "stream": 8}, LAST], "stream=8: must be an object"),
    ("coarse", [{"rows": 8, "carried": {"rows": 8, "wide": 1}}, LAST], "wide x each"),
    ("small", [{"rows": 9, "bulk": {"rows": 8}}, {"rows": None, "way": "cublas"}], "rows=9: more than .*Bulk.* takes"),
    ("small", [{"rows": None, "bulk": {"rows": 64}}], "rows=None: more than"),
    ("small", [STREAM, LAST], "field='stream': unknown; known: bulk, rows, way"),
    ("attention", [{"rows": None, "form": {"query_rows": 16, "block_keys": 32, "warps": 2, "stages": 3}}], "must have one of with_tails"),
    ("gate", {"bf17": 8}, "name='bf17': unknown; did you mean 'bf16'"),
    ("gate", {"bf16": -8}, "bf16=-8: must be a number of rows"),
    ("gate", [8], "must be an object of names"),
    ("together", {"*bf16": 16}, r"\*bf16=16: must be an object"),
]


@pytest.mark.parametrize("name, given, message", BROKEN)
def test_what_is_broken_is_named(tmp_path, name, given, message):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"gpu": "x", "tables": {name: {"measured": OWN, "entries": given}}}))
    with pytest.raises(InputError, match=message) as error:
        tuned.read(path)
    assert str(path) in str(error.value) and name in str(error.value) and "`slipstream tune` write it again" in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "Expecting property name"),
        ("[]", "must be an object with gpu and tables"),
        ('{"gpu": "x", "tables": {}, "more": 1}', "must be an object with gpu and tables"),
        ('{"gpu": "x", "tables": {"gate": {"entries": {}}}}', "'gate': must be an object with measured and entries"),
        ('{"gpu": "x", "tables": {"gate": {"entries": {}, "measured": {"case": "a"}}}}', "measured=.*must be words or have case, commit"),
    ],
)
def test_what_is_no_file_of_tables_is_named(tmp_path, text, message):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(InputError, match=message):
        tuned.read(tmp_path / "own.json")


@pytest.mark.parametrize(
    "gpus, own, name",
    [
        ((), False, "h200.json"),
        (None, False, "h200.json"),
        ((Gpu("NVIDIA H200"), Gpu("NVIDIA A10")), False, "h200.json"),
        ((Gpu("NVIDIA L40S"),), False, "h200.json"),
        ((Gpu("NVIDIA L40S"),), True, "nvidia-l40s.json"),
        ((Gpu("NVIDIA H200"),), True, "nvidia-h200.json"),
    ],
)
def test_which_file_a_process_goes_by(monkeypatch, fresh, gpus, own, name):
    """The user's own first; of a table that it leaves out what ships holds."""
    monkeypatch.setattr(tuned.gpu, "read", lambda: gpus)
    if own:
        tuned.write(tuned.own_file(gpus[0].name), gpus[0].name, {"gate": tuned.Tuned({"bf16": 16}, OWN)})
        assert tuned.own_file(gpus[0].name).parent == fresh / "slipstream" / "tuned"
    assert tuned.source().name == name
    now = tuned.current()
    assert set(now) == set(tuned.tables()) and now["gate"].entries == ({"bf16": 16} if own else {})
    assert tuned.tables()["coarse"].now is tuned.tables()["coarse"].now, "variants and graphs are kept by it"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    tuned.source.cache_clear()
    assert tuned.source() == tuned.shipped_file()


def test_a_broken_file_of_the_user_stops_the_engine_with_a_way_out(monkeypatch, fresh):
    monkeypatch.setattr(tuned.gpu, "read", lambda: (Gpu("NVIDIA L40S"),))
    path = tuned.own_file("NVIDIA L40S")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"nvidia-l40s\.json: must be an object.*delete it"):
        tuned.current()


def test_carried_serves_only_what_it_can():
    """A table may name it for all weights that the table is about."""
    from slipstream.ops.triton import whole
    from slipstream.ops.triton.carried import Carried
    from slipstream.ops.triton.packing import Form

    table = ((8, Carried(8)), (tuned.ALL, whole.UNPACKED))
    assert whole.way(Form(4096, 4096, 4, 128, "*fp16", "zero"), 8, table) == Carried(8)
    assert whole.way(Form(4096, 4096, 8, 0, "*fp32"), 8, table) == whole.Stream(8)


def test_fields_without_defaults_are_few():
    """A field that is new to a dataclass must have a default, or files that users have could not be read any more."""
    needed = {kind.__name__: [field.name for field in fields(kind) if field.default is MISSING] for kind in kinds()}
    assert needed.pop("Form") == ["query_rows", "block_keys", "warps", "stages"] and needed.pop("Tile") == []
    assert all(names == ["rows"] for names in needed.values()), needed


def kinds() -> set[type]:
    of = [[*column.values()] for table in tuned.tables().values() for column in getattr(table, "columns", ())]
    return {kind for some in of for kind in some}
