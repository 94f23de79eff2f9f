"""Everything that ships, compiled to sm_90 without a GPU for the layers of an 8B model and the measures of other families: minutes, so
`.ci/run` asks for the marker `compiled` by itself. That no kernel is forgotten: test_compiled.py.
"""

import importlib.util

import pytest

from tests.triton.test_compiled import SHARED_LIMIT, compiled_by

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
PARTS = 12  # compiled one beside the other, as many at a time as there are workers
PROGRAM = """
import json, sys
from dataclasses import asdict
from slipstream.ops.triton import compile
part, parts = map(int, sys.argv[1:])
for form in [*compile.shipped("llama-3.1-8b"), *compile.candidates()][part::parts]:
    print(json.dumps(asdict(compile.measure(*form))))
"""
GROUPS = ("bulk", "packed", "packed_fold", "fp8", "coded")  # kernels whose products are of groups of four warps
SINGLE = ("packed_stream", "packed_carry")  # and of single warps
SPILLED = (  # (kernel, part of the form, bytes of a thread that do not fit into registers); see docs/gpu.md
    ("attention_softcap", "", 432),  # heads of 256
    ("attention", "", 176),  # what it needs between segments, not in the loops over keys
    ("packed_stream", "rows 64", 200),  # sums of 64 rows fill the registers: what else is needed waits at the ends of a loop
    ("packed_stream", "int4 group 32 rows 16", 8),
    ("packed_fold", "q8_0 rows 128", 16),
    ("layer_norm", "residual fp8e4nv", 8),
)


def products(form: dict) -> tuple[bool, bool]:
    """Whether a form has products of groups of warps, and of single ones."""
    kernel, said = form["kernel"], form["form"]
    if kernel in ("attention_together", "attention_mixed"):
        return True, True
    if kernel.startswith("attention") and kernel != "attention_merge":
        in_fp32, many = "kv fp32" in said, "rows 64" in said
        return many and not in_fp32, not many and not in_fp32
    if kernel == "experts_product":
        return "rows 64" in said, "rows 16" in said and "fp32" not in said
    return kernel in GROUPS or kernel == "fixed" and "bf16" in said, kernel in SINGLE


@pytest.mark.compiled
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_it_fits_the_machine(tmp_path, part):
    forms = compiled_by(tmp_path, "-c", PROGRAM, str(part), str(PARTS), timeout=880)
    assert len(forms) > 20
    for form in forms:
        known = next((size for kernel, said, size in SPILLED if form["kernel"].startswith(kernel) and said in form["form"]), 0)
        assert form["waits"] and 0 < form["registers"] <= 255 and form["shared"] <= SHARED_LIMIT, form
        assert form["spills"] <= known, form
        assert (form["wgmma"] > 0, form["mma"] > 0) == products(form), form
