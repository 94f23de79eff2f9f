"""The kernels compiled to sm_90 without a GPU: they fit into registers and shared memory, and large products use wgmma.

Every form that ships is compiled by test_shipped.py; here are one of each sort, attention taking seconds a form, and other shapes.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.package import environment

SHARED_LIMIT = 227 * 1024
EACH_SHAPE = {"norm", "embed", "rope_write", "attention", "attention_merge", "gated", "move", "logprobs", "bulk"}
SAMPLING = {f"sample_{step}" for step in ("peaks", "masses", "cut", "draw", "pick")}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def compile_forms(folder: Path, *arguments: str, timeout: float = 280) -> list[dict]:
    """What slipstream.ops.triton.compile says of these forms."""
    return compiled_by(folder, "-m", "slipstream.ops.triton.compile", "--json", *arguments, timeout=timeout)


def compiled_by(folder: Path, *arguments: str, timeout: float = 280) -> list[dict]:
    """The forms that a program prints; compiled afresh, in a process that does not interpret."""
    compiled = environment(TRITON_CACHE_DIR=str(folder))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=compiled, timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(forms: list[dict]) -> None:
    assert {form["kernel"] for form in forms} == EACH_SHAPE | SAMPLING
    for form in forms:
        assert form["waits"], form
        parks = form["kernel"] == "attention"  # what it needs between segments, not in the loops over keys
        assert form["spills"] <= (160 if parks else 0), form
        assert 0 < form["registers"] <= 255 and form["shared"] <= SHARED_LIMIT, form
        in_bf16 = form["kernel"] == "attention" and "kv fp32" not in form["form"]  # products of a cache in fp8 too
        few = in_bf16 and "rows 64" not in form["form"]  # a tile of less than wgmma takes
        assert (form["mma"] > 0) == few, f"products of single warps where they are too slow, or none where they are enough: {form}"
        assert (form["wgmma"] > 0) == (form["kernel"] == "bulk" or in_bf16 and not few), form


ATTENTION = ("kv bf16 rows 16 by row in parts", "kv bf16 rows 64 by tile", "kv fp8 rows 16 by row")
SOME = f"""
import json
from dataclasses import asdict
from slipstream.ops.triton import compile
left, merges = {ATTENTION}, 0
for kernel, form, variant in compile.forms(["llama-3.1-8b"]):
    taken = [end for end in left if form.endswith(end)]
    merges += kernel == "attention_merge"
    if taken if kernel == "attention" else kernel != "attention_merge" or merges == 1:
        left = [end for end in left if end not in taken]
        print(json.dumps(asdict(compile.measure(kernel, form, variant))))
"""


def test_an_8b_model_fits_the_machine(tmp_path):
    """All kernels, of attention one form of each sort."""
    forms = compiled_by(tmp_path, "-c", SOME)
    check(forms)
    assert sum(form["kernel"] == "attention" for form in forms) == len(ATTENTION)


ALL = """
import importlib, pkgutil
import triton
from slipstream.ops import triton as candidate
from slipstream.ops.triton import compile
listed = {}
for kernel, form, variant in [*compile.shipped("llama-3.1-8b"), *compile.candidates(), *compile.ends(["tiny"], ["int4"])]:
    assert variant.kernel.src.count("    await_turn()\\n") == 1, f"{kernel} {form}"
    listed[id(variant.kernel)] = kernel
for module in (importlib.import_module(f"{candidate.__name__}.{found.name}") for found in pkgutil.iter_modules(candidate.__path__)):
    for name, kernel in vars(module).items():
        launched = isinstance(kernel, triton.JITFunction) and "    await_turn()\\n" in kernel.src
        assert not launched or id(kernel) in listed, f"compile.py forgets {module.__name__}.{name}"
print(len(listed))
"""


def test_every_kernel_waits_for_the_one_before_and_none_is_forgotten():
    """One that did not wait would be read by the next but one while it still writes (ops/triton/chain.py); and what is not listed
    is compiled by no test."""
    compiled = environment()
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, env=compiled, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 30


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_named_shape_fits_the_machine(tmp_path):
    names = ("tiny", "demo", "llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-3.1-70b", "llama-2-7b")
    forms = compile_forms(tmp_path, "--shapes", *names, timeout=900)
    check(forms)
    assert len({form["form"].split()[0] for form in forms}) == 7
