"""Products of packed codes by bulk copies: the kernel's source run by hand, with barriers that count bytes; some forms compiled."""

import importlib.util
import json
import subprocess
import sys
from types import ModuleType

import pytest
import torch

from tests.tools.package import environment

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
from slipstream.base.errors import InputError  # noqa: E402
from tests.ops.scenes import meaning, random, stored  # noqa: E402
from tests.triton import by_hand  # noqa: E402


@pytest.fixture(scope="module")
def carried():
    parent = ModuleType("slipstream.ops.triton")
    parent.streamed = by_hand.imported("slipstream.ops.triton.streamed")
    return by_hand.imported("slipstream.ops.triton.carried", **{parent.__name__: parent, f"{parent.__name__}.streamed": parent.streamed})


def layer(format: str, group: int, n: int, k: int):
    """A packed layer and the weights that it means; groups of 32 whose scales and zeros are equal are packed as greater ones."""
    from slipstream.ops.triton.packing import pack

    tensors = stored(format, n, k)
    for name in {"scale", "least"} & tensors.keys() if group > 32 else ():
        tensors[name] = tensors[name][:, :: group // 32].repeat_interleave(group // 32, 1).contiguous()
    packed = pack(tensors)
    assert packed.form.group == group
    return packed, meaning(format, tensors)


SINGLE, DEEP, WIDE = dict(rows=8, ring=3, fill=1), dict(rows=8, deep=2, wide=2, ring=2, fill=9), dict(rows=16, wide=2, each=64, fill=6)


@pytest.mark.parametrize(
    "format, group, shape",
    [
        ("int4", 32, SINGLE), ("int4_zero", 32, DEEP), ("int4_zero", 64, DEEP), ("int4_zero", 128, SINGLE), ("int4", 128, WIDE),
        ("q8_0", 32, WIDE),
    ],
)
def test_against_what_the_weights_mean(carried, format, group, shape):
    """In columns of a wider tensor, nothing of which is touched beside them: one segment longer than the ring, several shorter; outputs
    that no tile divides, a number of rounds that no `deep` does."""
    packed, weight = layer(format, group, 130, 640)
    chosen = carried.Carried(**shape)
    for m in (1, chosen.rows):
        x, bias, out = random(m, 640, seed=2).bfloat16(), random(130, seed=3), torch.full((m, 139), torch.nan)
        carried.product(x, packed, bias, out[:, 5:135], chosen)
        assert out[:, :5].isnan().all() and out[:, 135:].isnan().all() and not packed.arrived.any()
        exact = x.double()
        room = 2e-6 * (exact.abs() @ weight.abs().T + bias.abs())
        assert ((out[:, 5:135].double() - exact @ weight.T - bias).abs() <= room).all()


@pytest.mark.parametrize("m, format, name", [(9, "int4", "up to 8 rows"), (1, "int8", "groups of 32, 64"), (1, "q4_k", "groups of 32, 64")])
def test_what_does_not_fit_is_named(carried, m, format, name):
    from slipstream.ops.triton.packing import pack

    packed = pack(stored(format, 32, 256))
    with pytest.raises(InputError, match=name):
        carried.product(random(m, 256, seed=1).bfloat16(), packed, None, torch.empty(m, 32), carried.Carried(8))


@pytest.mark.parametrize("shape", [dict(wide=2), dict(wide=8), dict(deep=2, wide=1)])
def test_programs_that_no_layer_or_layout_takes_are_named(carried, shape):
    with pytest.raises(InputError, match="deep x outputs 128 or more"):
        carried.Carried(8, **shape)


def test_a_table_that_names_it_is_enough():
    from slipstream.ops.triton import carried, whole
    from slipstream.ops.triton.packing import Form

    form, chosen = Form(4096, 4096, 4, 128, "*fp16", "zero"), carried.Carried(8)
    assert whole.way(form, 5, ((8, chosen), *whole.COARSE.now)) == chosen and carried.serves(form)
    assert not any(isinstance(way, carried.Carried) for table in (whole.COARSE.now, whole.FINE.now, whole.INVARIANT) for _, way in table)


PROGRAM = """
import json
from dataclasses import asdict
from slipstream.bench.gpu.packed_forms import CARRIED
from slipstream.ops.triton import carried, compile
for make in (compile.PACKED["int4"][0][1], compile.PACKED["int4_zero"][-1][1]):
    form = make(4096, 4096)
    for chosen in CARRIED:
        print(json.dumps(asdict(compile.measure("packed_carry", f"{form.group} {chosen}", carried.variant(form, True, chosen)))))
"""


@pytest.mark.compiled
@pytest.mark.timeout(900)
def test_every_form_of_the_suite_compiles_for_hopper_and_fits(tmp_path):
    """Two programs and more share a multiprocessor, but of one form; another is in test_packed.py."""
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=compiled, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    forms = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(forms) == 32
    for form in forms:
        assert form["waits"] and form["mma"] > 0 and form["wgmma"] == 0 and form["spills"] == 0, form
        assert form["registers"] <= (144 if "each=64" in form["form"] else 96), form
        assert form["shared"] <= 114 << 10 or "ring=12" in form["form"], form
