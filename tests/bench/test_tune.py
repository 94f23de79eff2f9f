"""From times to tables: the rule on made rows and on those of an H200, and the command on a folder."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from slipstream.base.errors import InputError
from slipstream.ops.triton.tuned import ALL, ByName, Ranges
from tests.tools.package import environment

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
WAYS = Ranges("ways", ({},), ("a", "b", "c"))
NOW = ((8, "a"), (64, "b"), (ALL, "c"))


def sample(rows, way, us, group="g", **more):
    from slipstream.bench.gpu.deciding import Sample

    return Sample("ways", rows, way, us, group, **more)


def decide(samples, table=WAYS, now=NOW):
    from slipstream.bench.gpu.deciding import decide

    return decide(table, now, samples)


def test_a_form_must_win_by_some_percent():
    assert decide([sample(8, "a", 100), sample(8, "b", 98.5)]) == (NOW, [])
    entries, [change] = decide([sample(8, "a", 100), sample(8, "b", 97)])
    assert entries == ((64, "b"), (ALL, "c")), "neighbours that are equal are one entry"
    assert (change.above, change.most, change.old, change.new, change.old_us, change.new_us) == (0, 8, "a", "b", 100, 97)


def test_a_wrong_form_never_wins_not_even_where_it_is_right():
    assert decide([sample(8, "a", 100), sample(8, "b", 50), sample(64, "b", 50, right=False)])[0][0] == (8, "a")
    carried = [sample(8, "c", 5, right=False, decides=False), sample(8, "c", 5, in_step=True), sample(8, "a", 9, in_step=True)]
    assert decide(carried) == (NOW, [])
    assert decide([sample(8, "a", 50, right=False), sample(8, "b", 100)])[0][0] == (64, "b"), "the table's own is wrong: the best right one"


def test_what_was_not_timed_stays():
    assert decide([]) == (NOW, [])
    assert decide([sample(8, "b", 1)]) == (NOW, []), "nobody timed what the table has there"
    assert decide([sample(8, "a", 9), sample(8, "a", 9, "h"), sample(8, "b", 1)]) == (NOW, []), "timed in one of two groups only"


def test_forms_are_missed_only_where_they_were_in_the_company():
    first = [sample(8, "a", 10), sample(8, "a", 10, "h"), sample(8, "b", 5), sample(8, "b", 5, "h")]
    second = [sample(8, "a", 10, among="short"), sample(8, "c", 4, among="short")]
    assert decide([*first, *second])[1][0].new == "c" and decide([*first, *second[:1]])[1][0].new == "b"
    assert decide([*first[:3], *second[:1]])[1] == [], "not everywhere in its own"


def test_how_far_a_number_of_rows_speaks():
    from slipstream.ops.triton.bulk import Bulk

    one, eight = [sample(1, "a", 9), sample(1, "b", 9)], [sample(8, "a", 9), sample(8, "c", 1)]
    assert decide([*one, *eight])[0] == ((1, "a"), (8, "c"), *NOW[1:])
    assert decide([sample(4, "a", 9), sample(4, "c", 1)])[0] == ((4, "c"), *NOW), "not above what was timed"
    assert decide([sample(99, "c", 9), sample(99, "a", 1)])[0] == (*NOW[:2], (ALL, "a")), "but the greatest of all"
    few = Bulk(64)
    assert decide([sample(64, "c", 9), sample(64, few, 1)], now=((8, "a"), (ALL, "c")))[0] == ((8, "a"), (64, few), (ALL, "c"))
    assert decide([sample(32, "b", 9), sample(32, "a", 1), sample(2048, "c", 9)])[0] == ((32, "a"), *NOW[1:])


def test_layers_count_as_often_as_a_model_has_them_and_models_alike():
    layers = [sample(8, "a", 10, part="o", times=32), sample(8, "a", 90, part="head"), sample(8, "b", 9, part="o", times=32)]
    assert decide([*layers, sample(8, "b", 99, part="head")])[0][0] == (64, "b")
    assert decide([*layers, sample(8, "b", 130, part="head")])[1] == [], "below the margin"
    groups = [sample(8, "a", 10), sample(8, "b", 5), sample(8, "a", 1000, "h"), sample(8, "b", 1090, "h")]
    assert decide(groups)[0][0] == (64, "b")
    assert decide([*groups[:3], sample(8, "b", 1110, "h")])[1] == [], "too much slower in one of them"


def test_what_was_timed_in_a_step_outweighs():
    from slipstream.bench.gpu.deciding import TABLE

    alone = [sample(8, "a", 9), sample(8, "b", 1)]
    assert decide([*alone, sample(8, TABLE, 9, in_step=True), sample(8, "b", 10, in_step=True)]) == (NOW, [])
    assert decide([*alone, sample(8, TABLE, 9, in_step=True)]) == (NOW, [])
    assert decide([sample(8, "b", 10), sample(8, "a", 9), sample(8, TABLE, 9, in_step=True), sample(8, "b", 8, in_step=True)])[1]


def test_tables_by_name():
    numbers, forms = ByName("ways", ("bf16", "int4"), int), ByName("ways", ("bf16",), str)

    def times(*rows, on=1.0):
        return [sample(m, done, us, column="bf16") for m in rows for done, us in ((True, on), (False, 5.0))]

    assert decide(times(1, 8), numbers, {"int4": 16})[0] == {"bf16": 8, "int4": 16}, "not above what was timed"
    assert decide([*times(1, 8), *times(16, on=6.0)], numbers, {"bf16": 64})[0] == {"bf16": 8}
    assert decide(times(1, on=6.0), numbers, {"bf16": 1})[0] == {}
    assert decide([*times(1, on=6.0), *times(8)], numbers, {})[0] == {}, "a number is up to how many rows"
    shared = [sample(1, None, 9, column="bf16"), sample(1, "new", 3, column="bf16")]
    assert decide(shared, forms, {})[0] == {"bf16": "new"} and decide(shared, forms, {"bf16": "old"})[1] == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from("abc"), st.sampled_from([1.0, 2.0, 3.0]), st.booleans()), max_size=12),
    st.sets(st.integers(1, 98), max_size=3),
)
def test_tables_ascend_and_name_what_was_right(made, bounds):
    now = tuple((most, "abc"[number % 3]) for number, most in enumerate((*sorted(bounds), ALL)))
    samples = [sample(rows, way, us, right=right) for rows, way, us, right in made]
    entries, changes = decide(samples, now=now)
    assert [most for most, _ in entries] == sorted({most for most, _ in entries}) and entries[-1][0] == ALL
    assert all(entries[n][1] != entries[n + 1][1] for n in range(len(entries) - 1)) or not changes
    assert all(all(right for _, way, _, right in made if way == change.new) for change in changes)
    assert {way for _, way in entries} <= {way for _, way in now} | {change.new for change in changes}


def test_what_an_h200_measured_is_what_ships():
    """Rows of dense_forms, packed_forms and experts of the second loan, attention_forms of the first: the rule changes nothing that was
    set by hand, and where forms were timed beside the table's own it was asked."""
    from slipstream.bench.gpu import tune
    from slipstream.ops.triton import tuned

    for name, cases in (("2026-11-26T210645", {"dense_forms", "packed_forms", "experts"}), ("2026-11-26T180142", {"attention_forms"})):
        results, shipped = tune.read(RESULTS / f"{name}-gpu-suite-h200.json"), tuned.read(tuned.shipped_file())
        assert results.gpu == "NVIDIA H200" and cases <= {case for case, rows in results.rows.items() if rows}
        said = []
        found = tune.decided(results, shipped, said.append)
        assert {name: one.entries for name, one in found.items()} == {name: one.entries for name, one in shipped.items()}, said
        assert any(case in str(one.measured) for one in found.values() for case in cases)


def folder(tmp_path: Path) -> Path:
    """Results in which cuBLAS is faster than the form that ships, at one row of the layers of a small model."""
    from slipstream.bench.gpu.journal import Journal

    path = tmp_path / "suite"
    path.mkdir()
    journal = Journal(path / "results.jsonl")
    journal.write("dense_forms", "start", again=False, dry=False)
    facts = {"weights": "bf16", "model": "llama-3.2-1b", "m": 1, "error": 1e-7}
    for layer in ("qkv", "o"):
        for form, us in (("bulk8_64_ring12_fill264", 6.0), ("cublas", 3.0)):
            journal.write("dense_forms", "row", point=layer, row={**facts, "layer": layer, "form": form, "us": us})
    journal.write("dense_forms", "end", status="done", seconds=1.0)
    suite = {"machine": {"gpus": [{"name": "NVIDIA L40S"}]}, "dry_run": False, "commit": "abc", "date": "2026-11-27", "cases": []}
    (path / "suite.json").write_text(json.dumps(suite))
    return path


def test_the_command_from_a_folder(tmp_path, monkeypatch):
    from slipstream.cli.main import app
    from slipstream.ops.triton import tuned

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, ["tune", "--from", str(folder(tmp_path))])
    assert done.exit_code == 0, done.output
    path = tmp_path / "cache" / "slipstream" / "tuned" / "nvidia-l40s.json"
    assert "small, 1 to 1 rows: Bulk(rows=8, outputs=64, ring=12, fill=264) 192.0 us -> cublas 96.0 us" in done.output
    assert f"written: {path}" in done.output and "1 changes, by dense_forms; not timed: packed_forms, layer_chain" in done.output
    found = tuned.read(path)
    assert found["small"].entries[0] == (1, "cublas") and found["small"].entries[1:] == tuned.current()["small"].entries
    assert found["small"].measured == {"case": "dense_forms", "commit": "abc", "date": "2026-11-27", "gpu": "NVIDIA L40S"}
    assert found["large"] == tuned.current()["large"]


def test_what_the_command_refuses(tmp_path, monkeypatch):
    from slipstream.bench.gpu import tune
    from slipstream.ops.triton import tuned

    monkeypatch.setattr(tuned.gpu, "read", lambda: ())
    with pytest.raises(InputError, match="nvidia-smi names no GPU here; give --from DIR.*--dry-run"):
        tune.tune(tune.Options())
    with pytest.raises(InputError, match="from=.*cannot be read.*gpu-suite"):
        tune.tune(tune.Options(results=tmp_path))
    (tmp_path / "suite.json").write_text('{"cases": []}')
    with pytest.raises(InputError, match="has no rows of packed_forms"):
        tune.tune(tune.Options(results=tmp_path))
    with pytest.raises(InputError, match="out=.*cannot be written.*--out"):
        tune.tune(tune.Options(results=folder(tmp_path), out=Path("/proc/none/own.json")), say=lambda text: None)


@pytest.mark.slow
def test_a_dry_run_measures_decides_and_writes_only_what_it_is_told(tmp_path):
    """Where typer and rich cannot be imported."""
    out, cache = tmp_path / "tables.json", tmp_path / "cache"
    start = "import sys\nfor name in ('typer', 'rich'): sys.modules[name] = None\n"
    start += f"sys.argv[1:] = ['tune', '--dry-run', '--out', {str(out)!r}]\n"
    start += "import runpy; runpy.run_module('slipstream.bench', run_name='__main__', alter_sys=True)"
    lean = environment(OMP_NUM_THREADS="1", XDG_CACHE_HOME=str(cache), TMPDIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, env=lean, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not timed: none" in done.stdout and json.loads(out.read_text())["gpu"] == "none" and not cache.exists()
