"""Whole-number products compiled to sm_90 without a GPU, and the machine instructions in them that the interpreter cannot run.

Their results: cases_packed.py, in the interpreter.
"""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.tools.package import environment
from tests.triton.ptx import bf16, execute
from tests.triton.test_compiled import SHARED_LIMIT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
SPILLED = 200  # bytes: the sums of 64 rows fill the registers, and what else is needed waits in memory at the ends of a loop
REGISTERS = 1 << 16  # of a multiprocessor, which two programs of tens of rows share


def check(forms: list[dict]) -> None:
    """The weight of products is in registers: in shared memory are codes and x, or what warps add up in the end."""
    for form in forms:
        few = form["kernel"] in ("packed_stream", "packed_carry")
        tight = few or form["kernel"] == "packed_fold" and "rows 128" in form["form"]  # q8_0 parks four numbers
        assert form["waits"], form
        assert form["registers"] <= 255 and form["shared"] <= (64 << 10 if few else SHARED_LIMIT), form
        assert form["spills"] <= (SPILLED if few and "rows 64" in form["form"] else 16 if tight else 0), form
        assert (form["mma"] > 0) == few and (form["wgmma"] > 0) == (form["kernel"] in ("packed", "packed_fold")), form


PROGRAM = """
import json
from dataclasses import asdict
from slipstream.ops.triton import carried, compile, folded, packed, streamed, whole
from slipstream.ops.triton.fused import Ending
one, other, six = (compile.PACKED[name][-1][1](4096, 4096) for name in ("int4_zero", "int4", "fp6"))
forms = [("packed", "", packed.variant(form, True, False, packed.tile_of(form, 32))) for form in (one, six)]
forms += [("packed", "", packed.variants(form, 32, False, narrow=True)[0]) for form in (one, other)]
forms += [("packed_stream", "", streamed.variant(form, True, whole.way(form, 1, whole.fast(form)))) for form in (one, other)]
forms += [("packed_stream", "rows 64", streamed.variant(one, False, whole.way(one, 64, whole.INVARIANT)))]
both = Ending("silu", "ends", "*bf16")
forms += [("packed_fold", "", folded.variant(one, False, whole.way(one, 64, whole.fast(one))))]
forms += [("packed_fold", "", folded.variant(other, True, whole.way(other, 16, whole.fast(other)), both))]
forms += [("packed_stream", "", streamed.variant(other, True, whole.way(other, 1, whole.fast(other)), both))]
forms += [("packed_carry", "", carried.variant(one, True, carried.Carried(8, ring=5), Ending(norm="begins")))]
for form in forms:
    print(json.dumps(asdict(compile.measure(*form))))
"""


def test_some_layers_fit(tmp_path):
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=compiled, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    forms = [json.loads(line) for line in done.stdout.splitlines()]
    check(forms)
    assert all(form["registers"] * form["warps"] * 32 <= REGISTERS // 2 for form in forms if form["kernel"] == "packed_fold")


def test_pairs_of_codes_by_machine_instructions():
    """All 65,536 numbers, in both halves of a register beside any other."""
    from slipstream.ops.triton.bits import CODE, EIGHT_BITS, FOUR_BITS, NIBBLES, SIX_BITS

    numbers = np.random.default_rng(0).permutation(65536).astype(np.uint16)
    pairs = np.stack([np.arange(65536, dtype=np.uint16), numbers], 1).copy()
    registers = pairs.view(np.uint32)[:, 0].copy()
    for number, text in enumerate(FOUR_BITS.value):
        np.testing.assert_array_equal(bf16(execute(text, {"$1": registers})["$0"]).reshape(-1, 2), 16 + (pairs >> (4 * number) & 15))
    for number, text in enumerate(EIGHT_BITS.value):
        signed = (pairs >> (8 * number) & 127).astype(np.int32) - 128 * (pairs >> (8 * number + 7) & 1).astype(np.int32)
        np.testing.assert_array_equal(bf16(execute(text, {"$1": registers})["$0"]).reshape(-1, 2), signed)
    for number, text in enumerate(NIBBLES.value):
        for zero in range(16):
            read = {"$1": pairs[0::2].view(np.uint32)[:, 0].copy(), "$2": pairs[1::2].view(np.uint32)[:, 0].copy()}
            read["$3"] = np.full(32768, zero * 0x01010101, np.uint32)
            found = torch.from_numpy(execute(text, read)["$0"].view(np.uint8)).view(torch.float8_e4m3fn).float() * CODE.value
            np.testing.assert_array_equal(found.view(-1, 2, 2), (pairs.reshape(-1, 2, 2) >> (4 * number) & 15).astype(np.float32) - zero)
    exponent, fraction = np.divmod(np.arange(32), 4)
    size = np.where(exponent == 0, fraction / 16, 2.0 ** (exponent - 3) * (1 + fraction / 4))  # of e3m2
    others = pairs[:, ::-1].copy()  # every number of one plane beside any of the other
    for number, text in enumerate(SIX_BITS.value):
        upper = others >> (2 * number) & 3
        meant = size[(pairs >> (4 * (number % 4)) & 15) + 16 * (upper & 1)] * np.where(upper > 1, -1, 1)
        found = bf16(execute(text, {"$1": registers, "$2": others.view(np.uint32)[:, 0].copy()})["$0"]).reshape(-1, 2)
        np.testing.assert_array_equal(found, meant)
