"""Every weight format: what it stores, and that unpack gives the weights that the kernel multiplies with."""

import pytest
import torch

from slipstream.base import native, registry
from slipstream.base.errors import InputError
from slipstream.ops import Kernels
from slipstream.quant import computed, scales
from slipstream.quant.four_bit import by_torch
from slipstream.quant.rounding import rounded
from tests.ops.scenes import meaning

FORMATS = computed()
# of the largest weight of the row
TOLERANCE = {"fp32": 0.0, "bf16": 2**-8, "int8": 0.51 / 127, "q8_0": 0.51 / 127}
TOLERANCE |= dict.fromkeys(("int4", "int4_64", "int4_128", "int4_zero"), 1.1 / 8)
TOLERANCE["fp8"] = 1 / 28  # 448 is the greatest, numbers from 256 on are 32 apart
TOLERANCE["fp6"] = 1 / 14  # 28 and 4
K = 128  # inputs; whole groups of every format


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(70, K, generator=generator) * torch.logspace(-2, 2, 70)[:, None]
    weight[5] = 0
    weight[6, 1:] = 0
    return weight.to(dtype)


@pytest.mark.parametrize("format", FORMATS)
def test_weights_are_rounded_where_they_lie(format):
    """On any device; "meta" has no numbers and needs no GPU."""
    stored = registry.load("slipstream.quant.formats", format).quantise(weights().to("meta"))
    assert {tensor.device.type for tensor in stored.values()} == {"meta"}


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
    if format.startswith("int4"):  # the best scale of what was rounded may be another one
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
    if format == "fp8":
        x = x.to(torch.float8_e4m3fn).float()
        x[:, 0] = 448  # and a row the scale 1
    out = torch.empty(3, 70)
    kernel.run(x, kernel.prepare(stored), None, out)
    meant = scheme.unpack(stored).double().T
    assert ((out - x.double() @ meant).abs() <= 1e-6 * (x.double().abs() @ meant.abs())).all()


def test_unchanged_weights_are_not_copied():
    for format, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        weight = weights(dtype)
        stored = registry.load("slipstream.quant.formats", format).quantise(weight)
        assert stored["weight"].data_ptr() == weight.data_ptr()


def test_int8_in_parts_equals_int8_at_once(monkeypatch):
    scheme = registry.load("slipstream.quant.formats", "int8")
    whole = scheme._quantise(weights())
    monkeypatch.setattr(scales, "_CHUNK", 200)
    parts = scheme._quantise(weights())
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole["weight"].abs().amax(1).tolist() == [0 if row == 5 else 127 for row in range(70)]


def test_int4_is_nearer_than_q4_0():
    gguf = pytest.importorskip("gguf", reason="the package gguf has the rounding of Q4_0")
    scheme, weight = registry.load("slipstream.quant.formats", "int4"), weights()
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0), gguf.GGMLQuantizationType.Q4_0)
    ours = scheme.unpack(scheme.quantise(weight))
    assert (ours - weight).norm() < 0.98 * (torch.from_numpy(theirs.copy()) - weight).norm()


@pytest.mark.parametrize(
    ("format", "group", "other"),
    [("int4", 32, "int8"), ("q8_0", 32, "int8"), ("int4_64", 64, "int4"), ("int4_128", 128, "int4"), ("fp6", 64, "fp8")],
)
def test_inputs_that_are_no_whole_groups_are_refused(format, group, other):
    with pytest.raises(InputError, match=f"quant='{format}': a layer has 45 inputs, no multiple of {group}; take quant='{other}'"):
        registry.load("slipstream.quant.formats", format).quantise(weights()[:, :45])


def test_six_bits_are_the_nearest_of_their_numbers():
    """Between any two neighbours, and at the middle the one whose fraction is even; then every number by its code."""
    scheme = registry.load("slipstream.quant.formats", "fp6")
    numbers = ((fraction / 4 + (exponent > 0)) * 2.0 ** max(exponent - 3, -2) for exponent in range(8) for fraction in range(4))
    positive = torch.tensor(sorted(numbers))
    middle = (positive[1:] + positive[:-1]) / 2
    even = torch.where(torch.arange(31) % 2 == 0, positive[:-1], positive[1:])
    parts = (positive[1:], middle, middle.nextafter(positive[1:]), middle.nextafter(positive[:-1]), torch.zeros(4))
    given = torch.cat([*parts, torch.full((64,), 28.0)])
    expected = torch.cat([positive[1:], even, positive[1:], positive[:-1], given[124:]])
    stored = scheme.quantise(torch.stack([given, -given]))
    assert torch.equal(stored["scale"], torch.ones(2)) and torch.equal(scheme.unpack(stored), torch.stack([expected, -expected]))
    assert torch.equal(meaning("fp6", stored).float(), scheme.unpack(stored))


@pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("format", "group"), [("int8", 0), ("q8_0", 32), ("int4", 32), ("int4_64", 64), ("int4_128", 128)])
def test_native_rounding_gives_the_bits_of_the_formats_own_code(format, group, dtype):
    scheme, weight = registry.load("slipstream.quant.formats", format), weights(dtype)
    weight[7, :32] = torch.tensor([1.0, -1.0] * 16)  # both ends are as large
    weight[8, :32] = 1e-7  # scales near the end of fp16
    weight[9] *= 1e-6
    if format == "int8":
        weight = weight[:, :45]
    expected = by_torch(weight, group) if format.startswith("int4") else scheme._quantise(weight)
    for isa in native.module.isas():
        native.module.force_isa(isa)
        found = rounded(format, weight, group)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    native.module.force_isa(native.module.isas()[0])
