"""Every weight format: what it stores, and that unpack gives the weights that the kernel multiplies with."""

import pytest
import torch

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.ops import Kernels
from slipstream.quant import computed

FORMATS = computed()
TOLERANCE = {"fp32": 0.0, "bf16": 2**-8, "int8": 0.51 / 127, "q8_0": 0.51 / 127, "int4": 1.1 / 8}  # of the largest weight of the row
K = 96  # inputs; whole blocks of every format


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(70, K, generator=generator) * torch.logspace(-3, 2, 70)[:, None]
    weight[5] = 0
    weight[6, 1:] = 0
    return weight.to(dtype)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpack_is_near_and_repeatable(format, dtype):
    scheme, weight = registry.load("slipstream.quant.formats", format), weights(dtype)
    stored = scheme.quantise(weight)
    unpacked = scheme.unpack(stored)
    assert unpacked.dtype == torch.float32 and unpacked.shape == weight.shape
    error = (unpacked - weight.float()).abs().amax(1)
    assert (error <= TOLERANCE[format] * weight.float().abs().amax(1)).all()
    assert torch.equal(unpacked[5], torch.zeros(K))
    assert sum(tensor.nbytes for tensor in stored.values()) == scheme.bytes(*weight.shape)
    assert format == scheme.NAME
    if format == "int4":  # the best scale of what was rounded may be another one
        return
    again = scheme.unpack(scheme.quantise(unpacked))
    torch.testing.assert_close(again, unpacked, rtol=1e-6, atol=0)


@pytest.mark.parametrize("format", FORMATS)
def test_the_kernel_takes_what_is_stored(format):
    scheme = registry.load("slipstream.quant.formats", format)
    stored = scheme.quantise(weights())
    kernel = Kernels(only="reference").linear(scheme.OP)
    x = torch.randint(-127, 128, (3, K)).float()
    x[:, ::32] = 127  # every block of 32 has the scale 1: activations stay exact in the int8 kernel too
    out = torch.empty(3, 70)
    kernel.run(x, kernel.prepare(stored), None, out)
    torch.testing.assert_close(out.double(), x.double() @ scheme.unpack(stored).double().T, rtol=1e-5, atol=0.02)


def test_unchanged_weights_are_not_copied():
    for format, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        weight = weights(dtype)
        stored = registry.load("slipstream.quant.formats", format).quantise(weight)
        assert stored["weight"].data_ptr() == weight.data_ptr()


def test_int8_in_parts_equals_int8_at_once(monkeypatch):
    scheme = registry.load("slipstream.quant.formats", "int8")
    whole = scheme.quantise(weights())
    monkeypatch.setattr(scheme, "_CHUNK", 200)
    parts = scheme.quantise(weights())
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["weight"].abs().amax(1).tolist() == [0 if row == 5 else 127 for row in range(70)]


def test_int4_is_nearer_than_q4_0():
    gguf = pytest.importorskip("gguf", reason="the package gguf has the rounding of Q4_0")
    scheme, weight = registry.load("slipstream.quant.formats", "int4"), weights()
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0), gguf.GGMLQuantizationType.Q4_0)
    ours = scheme.unpack(scheme.quantise(weight))
    assert (ours - weight).norm() < 0.98 * (torch.from_numpy(theirs.copy()) - weight).norm()


@pytest.mark.parametrize("format", ["int4", "q8_0"])
def test_inputs_that_are_no_whole_groups_are_refused(format):
    with pytest.raises(InputError, match=f"quant='{format}': a layer has 45 inputs, no multiple of 32; take quant='int8'"):
        registry.load("slipstream.quant.formats", format).quantise(weights()[:, :45])
