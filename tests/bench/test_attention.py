"""The bench of attention: what it moves and computes, what it refuses, and its file."""

import json

import pytest
from typer.testing import CliRunner

from slipstream.base.errors import InputError
from slipstream.bench import attention
from slipstream.bench.attention import Ask, Point, run
from slipstream.bench.attention_command import point
from slipstream.bench.group import bench
from slipstream.ops import Kernels


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(attention, "APART", 2**20)
    monkeypatch.setattr(attention, "PROBE", 0.001)


def test_what_a_call_cannot_avoid(small):
    found = run(Ask(("bf16", "int8"), (Point(3, 40), Point(1, 20, 2)), 4, 2, 16, repeat=2), Kernels())
    assert [(place.type, place.point.context, len(place.seconds)) for place in found] == [
        *(("bf16", 40, 2), ("bf16", 20, 2), ("int8", 40, 2), ("int8", 20, 2))
    ]
    assert found[0].bytes == 40 * 2 * 2 * 16 * 2 and found[3].bytes == 2 * 20 * 2 * 2 * (16 + 4)
    assert found[0].operations == (38 + 39 + 40) * 4 * 16 * 4 and found[1].operations == 2 * 20 * 4 * 16 * 4


def test_points():
    assert point("512/2048") == Point(512, 2048) and point("1/8192x8") == Point(1, 8192, 8)
    for wrong in ("8/4", "0/4", "1/8x0", "1-8", ""):
        with pytest.raises(InputError, match="--points"):
            point(wrong)


def test_the_file_and_wrong_types(small, tmp_path):
    asked = ["--heads", "4", "--kv-heads", "2", "--head-dim", "16", "--repeat", "1", "--points", "3/40,1/20x2", "--out", str(tmp_path)]
    done = CliRunner().invoke(bench, ["attention", *asked])
    assert done.exit_code == 0 and "of bandwidth" in done.output
    (path,) = tmp_path.iterdir()
    points = json.loads(path.read_text())["points"]
    assert len(points) == 2 and {"of_peak", "of_bandwidth", "seconds", "peak"} <= set(points[0])
    with pytest.raises(InputError, match="KV type='bf15': unknown; did you mean"):
        run(Ask(("bf15",)), Kernels())
