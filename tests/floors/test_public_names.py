"""The public names, each where the documentation says; nothing loads before it is asked for."""

import json
import subprocess
import sys

import slipstream

ERRORS = {"SlipstreamError", "InputError", "CheckpointError", "CapacityError", "BackendError"}
DOCUMENTED = {"LLM", "AsyncLLM", "SamplingParams", "DraftTree", "__version__"} | ERRORS


def test_exactly_the_documented_names():
    assert set(slipstream.__all__) == DOCUMENTED
    assert len(slipstream.__all__) == len(DOCUMENTED)


def test_every_name_is_there():
    for name in slipstream.__all__:
        assert getattr(slipstream, name) is not None


def test_errors_are_one_tree():
    for name in ERRORS:
        assert issubclass(getattr(slipstream, name), slipstream.SlipstreamError)
        assert getattr(slipstream, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(slipstream, "Lllm")


def test_importing_the_package_loads_nothing_heavy():
    program = "import sys, json, slipstream; print(json.dumps([m for m in ('torch', 'numpy', 'tokenizers', 'typer') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []
