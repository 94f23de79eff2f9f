"""The bench of linear layers: what it moves, what it is held against, and its file."""

import json

import pytest
from typer.testing import CliRunner

from slipstream.base.errors import InputError
from slipstream.bench import layers
from slipstream.bench.group import bench
from slipstream.bench.layers import Ask, Layer, run
from slipstream.ops import probe


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(layers, "APART", 2**20)
    monkeypatch.setattr(layers, "PROBE", 0.001)


def test_each_format_is_held_against_its_own_peak(small, monkeypatch):
    asked = []
    monkeypatch.setattr(probe, "peak", lambda kind, threads, seconds: asked.append(kind) or 100.0)
    found = run(Ask(("int4", "bf16"), ("32", "128", "row"), rows=(1, 20), n=64, k=96, repeat=2))
    ways = [("int4", "32"), ("int4", "row"), ("bf16", "32")]
    assert [(layer.format, layer.activations, layer.rows) for layer in found] == [(*way, rows) for way in ways for rows in (1, 20)]
    assert asked == ["int4"] * 4 + ["fp32"] * 2 + ["int4"] * 4 + ["fp32"] * 2 and all(len(layer.seconds) == 2 for layer in found)
    assert found[0].bytes == 64 * 96 * 4.5 / 8 and found[3].operations == 2 * 20 * 64 * 96


def test_shares_are_medians_of_neighbours():
    taken = {"seconds": [1.0, 2.0, 4.0], "bandwidth": [2.0, 2.0, 1.0], "peak": [4.0, 4.0, 4.0]}
    layer = Layer("int8", "32", 1, bytes=10**9, operations=2 * 10**9, **taken)
    assert layer.rate == 1.0 and layer.of_peak == 0.25 and layer.of_bandwidth == 0.25


def test_the_file_and_wrong_formats(small, tmp_path):
    done = CliRunner().invoke(bench, ["layers", "--rows", "1,2", "--n", "64", "--k", "64", "--repeat", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0 and "of bandwidth" in done.output
    (path,) = tmp_path.iterdir()
    points = json.loads(path.read_text())["points"]
    assert len(points) == 10 and {"of_peak", "of_bandwidth", "seconds", "peak"} <= set(points[0])
    with pytest.raises(InputError, match="format='int5': unknown; did you mean"):
        run(Ask(("int5",)))
