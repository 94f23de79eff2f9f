"""Gate and up in pairs: their order, and gates as the last step of products of few rows, whose source runs by hand. Compiled: test_ends.py.
Behind a product: cases_fused.py.
"""

import importlib.util

import pytest
import torch

from slipstream.base.errors import InputError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
from tests.ops.scenes import fitting, random, stored  # noqa: E402
from tests.triton import by_hand  # noqa: E402

WIDTH, INPUTS = 72, 544  # of gate and of up: tiles of 16 that a program's outputs do not divide


def test_eight_of_gate_then_the_eight_of_up_that_they_belong_to():
    from slipstream.ops.triton.pairs import paired

    found = paired({"weight": torch.arange(48).view(48, 1), "scale": torch.arange(48)})
    assert found["scale"].tolist() == [*range(8), *range(24, 32), *range(8, 16), *range(32, 40), *range(16, 24), *range(40, 48)]
    assert torch.equal(found["weight"][:, 0], found["scale"]) and found["weight"].is_contiguous()
    with pytest.raises(InputError, match="multiple of 16 outputs; found 40"):
        paired({"weight": torch.zeros(40, 1)})


def assert_gated(product, rows: int, activation: str, dtype: torch.dtype) -> None:
    """Sums and what is gated of them are the same numbers, and nothing is touched beside them."""
    sums, out = torch.full((rows, 2 * WIDTH), torch.nan), torch.full((rows, WIDTH + 8), torch.nan, dtype=dtype)
    product(sums, "")
    product(out[:, :WIDTH], activation)
    gate, up = sums.unflatten(1, (-1, 2, 8)).unbind(2)
    wanted = by_hand.activated(by_hand.Block(gate.flatten(1).numpy(), by_hand.FP32), activation).data * up.flatten(1).numpy()
    assert torch.equal(out[:, :WIDTH], torch.from_numpy(wanted).to(dtype)) and out[:, WIDTH:].isnan().all()


PACKED = {
    "one segment": ("streamed", dict(rows=8, deep=2, fill=1), "int4", "silu"),
    "segments": ("streamed", dict(rows=16, deep=2, wide=2, each=64), "int4_zero", "gelu"),
    "groups of warps": ("folded", dict(rows=16, warps=4, depth=64, fill=1), "int4", "gelu_tanh"),
    "their segments": ("folded", dict(rows=8, warps=4, each=32, fill=64), "int8", "silu"),
    "segments by copies": ("carried", dict(rows=16, ring=3), "int4", "silu"),
}
WAYS = {"streamed": "Stream", "folded": "Folded", "carried": "Carried"}


@pytest.mark.parametrize("case", PACKED)
def test_packed_weights(case):
    from slipstream.ops.triton.fused import End
    from slipstream.ops.triton.packing import pack
    from slipstream.ops.triton.pairs import paired

    name, shape, format, activation = PACKED[case]
    module = getattr(by_hand.products(), name)
    layer = pack(paired(stored(format, 2 * WIDTH, fitting(format, INPUTS))))
    way = getattr(module, WAYS[name])(**shape)
    way = way if name == "carried" else module.fitting(layer.form, way)
    x, bias = random(11, layer.form.inputs, seed=2).bfloat16(), random(2 * WIDTH, seed=3)
    x = torch.nn.functional.pad(x, (0, layer.form.k - layer.form.inputs))
    assert_gated(lambda out, gate: module.product(x, layer, bias, out, way, End(gate)), 11, activation, torch.bfloat16)
    assert not layer.arrived.any()
    if name != "carried":
        assert (module.segments_of(layer.form, way)[0] > 1) == case.endswith("segments")


@pytest.mark.parametrize("narrow, fill, dtype", [(False, 1, torch.bfloat16), (False, 12, torch.float32), (True, 12, torch.bfloat16)])
def test_plain_weights(narrow, fill, dtype):
    from slipstream.ops.triton.fused import End

    bulk = by_hand.products().bulk
    x, weight, scale = random(7, 640, seed=1), random(2 * WIDTH, 640, seed=2) / 25, None
    if narrow:
        room = torch.full((7, 4), torch.nan)
        room[:, 0] = random(7, seed=6).abs() + 0.1
        x = torch.cat([x.to(torch.float8_e4m3fn), room.view(torch.float8_e4m3fn)], 1)
        weight, scale = weight.to(torch.float8_e4m3fn), random(2 * WIDTH, seed=5).abs()
    else:
        x, weight = x.bfloat16(), weight.bfloat16()
    bias, arrived, form = random(2 * WIDTH, seed=3), bulk.counters(2 * WIDTH, x.device), bulk.Bulk(8, 64, 3, fill)
    assert_gated(lambda out, gate: bulk.product(x, weight, arrived, bias, out, form, scale, End(gate)), 7, "silu", dtype)
