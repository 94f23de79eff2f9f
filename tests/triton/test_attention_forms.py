"""Attention of rows that share keys, and of few rows among many, compiled to sm_90: all forms that the suite times fit the machine.
What they compute: cases_attention.py."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.tools.package import environment

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
SHARED_LIMIT = 227 * 1024
COMPILE = """
import json, sys
from dataclasses import asdict
from slipstream.bench.gpu.cases import hybrid_attention, shared_prefix
from slipstream.ops.triton import attention
from slipstream.ops.triton.compile import measure
wanted = [
    (make, field, kind, form)
    for case, make, field in (
        (shared_prefix, attention.together_variant, "group_rows"), (hybrid_attention, attention.mixed_variant, "few_rows"),
    )
    for kind, forms in (("*bf16", case.FORMS), ("*fp8e4nv", case.FORMS_CODED)) for form in forms
]
for make, field, kind, (rows, others, *rest) in wanted if sys.argv[1] == "all" else wanted[3:4]:
    found = measure("attention", kind, make(32, 8, 128, kind, attention.Form(rows, *rest, **{field: others}), out="*bf16"))
    print(json.dumps(asdict(found) | {"rows": [rows, others]}))
"""


@pytest.mark.parametrize("some", ["one", pytest.param("all", marks=[pytest.mark.compiled, pytest.mark.timeout(900)])])
def test_it_fits_the_machine(tmp_path, some):
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE, some], capture_output=True, text=True, env=compiled, timeout=880)
    assert done.returncode == 0, done.stderr[-4000:]
    forms = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(forms) == (1 if some == "one" else 18)
    for form in forms:
        assert form["waits"] and 0 < form["registers"] <= 255 and form["shared"] <= SHARED_LIMIT, form
        assert form["spills"] <= (160 if max(form["rows"]) >= 64 else 24), form  # what it needs between segments, as in test_compiled.py
        assert (form["wgmma"] > 0) == (max(form["rows"]) >= 64) and (form["mma"] > 0) == (16 in form["rows"]), form
