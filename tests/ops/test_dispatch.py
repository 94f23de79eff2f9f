"""The choice of kernels: order, reasons, refusals."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from slipstream.base import native
from slipstream.base.errors import BackendError, InputError
from slipstream.ops import Choice, Declined, Kernels, dispatch, reference
from slipstream.ops.types import FAMILY_OPS, LINEAR_OPS, OPS, ROUND_OPS


def candidates(monkeypatch, **offers) -> None:
    """Makes dispatch find these candidates instead, each a function (op, device) -> answer."""
    monkeypatch.setattr(dispatch, "CANDIDATES", tuple(offers))
    monkeypatch.setattr(dispatch, "load", lambda package, name: SimpleNamespace(NAME=name, PROFILE=f"{name}.3", offer=offers[name]))


def test_the_reference_serves_every_op():
    kernels = Kernels(only="reference")
    assert kernels.choices() == [Choice(op, "reference") for op in OPS + ROUND_OPS + FAMILY_OPS + LINEAR_OPS]
    assert all(getattr(kernels, op) is reference.OFFERED[op] for op in OPS + ROUND_OPS + FAMILY_OPS)
    assert kernels.profile == f"reference.{reference.VERSION}"


def test_the_first_that_does_not_decline_serves(monkeypatch):
    def swift(op, device):
        return f"swift {op}" if op in ("norm", "linear_bf16") else Declined("not built")

    candidates(monkeypatch, swift=swift, plain=lambda op, device: f"plain {op}")
    kernels = Kernels()
    assert (kernels.norm, kernels.embed) == ("swift norm", "plain embed")
    assert (kernels.linear("bf16"), kernels.linear("int8")) == ("swift linear_bf16", "plain linear_int8")
    choice = {choice.op: choice for choice in kernels.choices()}
    assert choice["norm"] == Choice("norm", "swift") and choice["embed"] == Choice("embed", "plain", (("swift", "not built"),))
    assert kernels.profile == "swift.3+plain.3", "both do arithmetic, so both are named"
    with pytest.raises(BackendError, match="'embed' has no kernel on device 'cpu': swift: not built"):
        Kernels(only="swift")


def test_formats_that_a_cpu_does_not_compute_are_refused_with_the_way_out():
    kernels = Kernels()
    assert not [choice for choice in kernels.choices() if choice.op.startswith("linear_fp") and choice.op != "linear_fp32"]
    for format in ("fp8", "fp6"):
        refused = f"'linear_{format}' has no kernel on device 'cpu'.*(take quant='int8'.* or device='cuda'|no native)"
        with pytest.raises(BackendError, match=refused):
            kernels.linear(format)


def test_a_device_nobody_serves_is_refused_with_all_reasons():
    with pytest.raises(BackendError, match="(?s)device 'tpu'.*cpu: .*reference: runs on the cpu only"):
        Kernels("tpu")


def test_unknown_names_are_answered_with_the_known_ones():
    kernels = Kernels(only="reference")
    with pytest.raises(InputError, match="only='referense': unknown; did you mean 'reference'"):
        Kernels(only="referense")
    with pytest.raises(InputError, match="format='int9': unknown; .* 'int8'.*bf16, fp32, fp6, fp8, fp8_block, int4, int4_128"):
        kernels.linear("int9")
    with pytest.raises(AttributeError, match="op='atention': unknown; did you mean 'attention'"):
        _ = kernels.atention


def test_without_the_native_module_the_reference_serves_and_says_why():
    script = "from slipstream.ops import Kernels; k = Kernels(); print(k.profile, {c.chosen for c in k.choices()}, k.choices()[0].declined)"
    environment = {**os.environ, "SLIPSTREAM_NATIVE": "0"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"reference.{reference.VERSION} {{'reference'}} (('triton', 'runs on cuda, not on cpu'), ('cpu', ")
    assert "SLIPSTREAM_NATIVE=0" in said


@pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")
def test_with_the_native_module_it_serves_every_op():
    kernels = Kernels()
    assert {choice.chosen for choice in kernels.choices()} == {"cpu"}
    assert kernels.profile.startswith("cpu") and "+" not in kernels.profile


def test_a_linear_kernel_runs_what_it_prepared():
    kernel = Kernels().linear("fp32")
    out = torch.empty(1, 2)
    kernel.run(torch.ones(1, 3), kernel.prepare({"weight": torch.tensor([[1.0, 2, 3], [4, 5, 6]])}), None, out)
    assert out.tolist() == [[6, 15]]
