"""The fixed-tile product compiled to sm_90 without a GPU: it uses wgmma and fits. Its results: cases_gemm.py, in the interpreter."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.tools.package import environment

SHARED_LIMIT = 227 * 1024
PROGRAM = """
import json, sys
from dataclasses import asdict
import torch
from slipstream.ops.triton import compile, gemm
for n, k in json.loads(sys.argv[1]):
    segments, _ = gemm.segments_of(n, k)
    for out in ("*fp32", "*bf16"):
        print(json.dumps(asdict(compile.measure("product", "whole", gemm.variant(n, k, out, False)))))
    print(json.dumps(asdict(compile.measure("product", "whole", gemm.variant(n, k, "*fp32", False, gemm.tile_of(65, torch.bfloat16))))))
    print(json.dumps(asdict(compile.measure("product_fp32", "", gemm.variant(n, k, "*fp32", False, gemm.TILE_FP32, "*fp32")))))
    if segments > 1:
        print(json.dumps(asdict(compile.measure("product", "parts", gemm.variant(n, k, "*fp32", True)))))
        print(json.dumps(asdict(compile.measure("merge", "", gemm.merge_variant(segments, "*fp32")))))
"""
LAYERS = [(4096, 14336), (10240, 8192)]  # those of an 8B model: test_shipped.py


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_it_uses_the_tensor_cores_of_hopper_and_fits(tmp_path):
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", PROGRAM, json.dumps(LAYERS)]
    done = subprocess.run(command, capture_output=True, text=True, env=compiled, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    forms = [json.loads(line) for line in done.stdout.splitlines()]
    assert {form["form"] for form in forms if form["kernel"] == "product"} == {"whole", "parts"}
    for form in forms:
        assert form["spills"] == 0 and form["registers"] <= 255 and form["shared"] <= SHARED_LIMIT, form
        assert form["waits"] and form["mma"] == 0 and (form["wgmma"] > 0) == (form["kernel"] == "product"), form
