"""Attention of rows that share keys, compiled to sm_90: all forms that the suite times fit. What they compute: cases_attention.py."""

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
from slipstream.bench.gpu.cases.shared_prefix import FORMS, FORMS_CODED
from slipstream.ops.triton import attention
from slipstream.ops.triton.compile import measure
forms = [("*bf16", form) for form in FORMS] + [("*fp8e4nv", form) for form in FORMS_CODED]
for kind, (rows, group_rows, *rest) in forms if sys.argv[1] == "all" else forms[3:4]:
    form = attention.Form(rows, *rest, group_rows=group_rows)
    found = measure("together", kind, attention.together_variant(32, 8, 128, kind, form, out="*bf16"))
    print(json.dumps(asdict(found) | {"rows": [rows, group_rows]}))
"""


@pytest.mark.parametrize("some", ["one", pytest.param("all", marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_it_fits_the_machine(tmp_path, some):
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", COMPILE, some], capture_output=True, text=True, env=compiled, timeout=550)
    assert done.returncode == 0, done.stderr[-4000:]
    forms = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(forms) == (1 if some == "one" else 11)
    for form in forms:
        assert form["waits"] and 0 < form["registers"] <= 255 and form["shared"] <= SHARED_LIMIT, form
        assert form["spills"] <= (0 if 64 not in form["rows"] else 160), form  # what it needs between segments, as in test_compiled.py
        assert (form["wgmma"] > 0) == (64 in form["rows"]) and (form["mma"] > 0) == (16 in form["rows"]), form
