"""What every weight format owes: a file that names itself, and an unpack that equals an independent implementation."""

import numpy as np
import pytest
import torch

from slipstream.base import registry
from slipstream.base.errors import CheckpointError
from slipstream.cost import LINEAR_ARITHMETIC
from slipstream.quant import computed, reader_of_config, reader_of_gguf, readers
from slipstream.quant.catalogue import FORMATS
from slipstream.weights import load
from tests.ops.scenes import meaning
from tests.quant.packings import CASES, E4M3
from tests.weights import tiny

gguf = pytest.importorskip("gguf", reason="the package gguf is the independent implementation")
GGUF = [name for name in readers() if hasattr(registry.load(FORMATS, name), "GGUF")]
# four bits, and groups of whole blocks of neighbours: a kernel takes them as they are
NATIVE = ("gptq", "gptq sym", "gptq v2", "gptq v2 zeros named v1", "awq", "awq rows")
LOADED = {name: case for name, case in CASES.items() if case.config or case.files}


def test_every_format_is_computed_or_read():
    assert set(computed()) >= {"fp32", "bf16", "int8"}
    for name in registry.names(FORMATS):
        module = registry.load(FORMATS, name)
        assert name == module.NAME and callable(module.unpack) and module.__doc__
        if name in readers():
            assert hasattr(module, "GGUF") != hasattr(module, "METHODS")
        else:
            assert name in computed()
        assert hasattr(module, "OP") == (name in computed() or hasattr(module, "lay_out"))
    assert {case.format for case in CASES.values()} == set(readers()) - set(GGUF), "every reader needs a hand-made packing"
    for kind in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q5_K", "Q6_K"):
        assert reader_of_gguf(kind) is not None


@pytest.mark.parametrize("name", GGUF)
def test_gguf_blocks_against_the_gguf_package(name):
    module = registry.load(FORMATS, name)
    (kind,) = module.GGUF
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (40, 3 * module.WIDTH), dtype=np.uint8)  # any bytes: scales may be huge, negative or not finite
    found = module.unpack({"blocks": torch.from_numpy(blocks)}).numpy()
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert found.dtype == np.float32 and found.shape == (40, 3 * module.VALUES)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in GGUF if hasattr(registry.load(FORMATS, name), "OP")])
def test_what_a_kernel_is_given_are_the_same_weights(name):
    """Laid out for the kernel, and read back one input at a time: the very numbers that the gguf package finds."""
    module = registry.load(FORMATS, name)
    (kind,) = module.GGUF
    blocks = np.random.default_rng(5).integers(0, 256, (6, 3 * module.WIDTH), dtype=np.uint8)
    blocks.reshape(6, 3, -1)[..., {"Q4_0": [1], "Q8_0": [1], "Q4_K": [1, 3], "Q6_K": [209]}[kind]] &= 0x3F  # finite scales
    tensors = module.lay_out({"blocks": torch.from_numpy(blocks)})
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(meaning(module.OP, tensors).float().numpy(), expected)


@pytest.mark.parametrize("name", GGUF)
def test_gguf_blocks_in_stretches_equal_those_at_once(name, monkeypatch):
    module = registry.load(FORMATS, name)
    blocks = torch.randint(0, 120, (5, 7 * module.WIDTH), dtype=torch.uint8)
    whole = module.unpack({"blocks": blocks})
    monkeypatch.setattr("slipstream.quant.blocks._STRETCH", 2 * module.VALUES)
    assert torch.equal(module.unpack({"blocks": blocks}), whole)


def weight(n=64, k=256, seed=2):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-1, 0, n)[:, None]


def scheme_of(case):
    return reader_of_config(case.config or {"quant_method": "modelopt", **case.files["hf_quant_config.json"]["quantization"]})


@pytest.mark.parametrize("name", LOADED)
def test_unpack_against_hand_made_packings(name):
    case = LOADED[name]
    for shape in ((64, 256), (192, 320)):
        stored, meant = case.pack(weight(*shape))
        scheme = scheme_of(case)
        assert scheme.name == case.format
        assert scheme.shape({end: tuple(tensor.shape) for end, tensor in stored.items()}) == shape
        parts = {end: stored[end] for end in (scheme.key, *scheme.needed, *scheme.optional) if end in stored}
        assert set(stored) - set(parts) <= set(scheme.unused)
        found = scheme.unpack(parts, shape)
        assert found.dtype == torch.float32 and torch.equal(found, meant)
        assert (meant - weight(*shape)).abs().max() < weight(*shape).abs().max() * (0.7 if "2 bit" in name else 0.2)


def test_mxfp4_against_a_hand_made_packing():
    module, (stored, meant) = registry.load(FORMATS, "mxfp4"), CASES["mxfp4"].pack(weight())
    assert torch.equal(module.unpack(stored), meant)
    experts = {name: torch.stack([tensor, tensor.flip(0)]) for name, tensor in stored.items()}
    assert torch.equal(module.unpack(experts), torch.stack([meant, meant.flip(0)]))
    assert torch.equal(meant.bfloat16().float(), meant)
    scales = torch.tensor([[0, 1, 127, 254, 255]], dtype=torch.uint8)
    values = module.unpack({"blocks": torch.full((1, 5, 16), 0x22, dtype=torch.uint8), "scales": scales})[0, ::32]
    assert values[:4].tolist() == [2.0**-127, 2.0**-126, 1.0, 2.0**127] and values[4].isnan()


def test_fp8_codes():
    codes = torch.arange(256, dtype=torch.uint8)
    found = registry.load(FORMATS, "fp8").unpack({"weight": codes.view(torch.float8_e4m3fn)[None], "weight_scale": torch.tensor(1.0)})
    np.testing.assert_array_equal(found[0].numpy(), E4M3)


@pytest.mark.parametrize("name", LOADED)
def test_a_checkpoint_of_each_kind_through_the_model(tmp_path, name, caplog):
    case, stored, meant = LOADED[name], {}, {}
    for tensor_name, values in tiny.random_weights().items():
        if tiny.is_linear(tensor_name):
            parts, meant[tensor_name] = case.pack(values)
            stored |= {f"{tensor_name.removesuffix('.weight')}.{end}": part for end, part in parts.items()}
        else:
            stored[tensor_name] = meant[tensor_name] = values
    more = {"quantization_config": case.config} if case.config else {}
    source = tiny.write(tmp_path / "packed", stored, files=case.files, **more)
    found = tiny.logits(source, quant="fp32")
    loaded = load(source)
    assert torch.equal(found, tiny.logits(tiny.write(tmp_path / "plain", meant))) and loaded.spec.name == "packed"
    native = name in NATIVE
    assert (str(loaded.as_stored) == "int4_zero") == native
    if case.format == "fp8":
        assert_on_a_gpu(source, name)
    if not native:
        line = caplog.records[0].getMessage()
        assert f"F32 (2), {case.format} (14); they are unpacked to fp32" in line
        return
    for name in ("layers.0.mixer.q.weight", "layers.1.ffn.down.weight"):
        assert torch.equal(meaning("int4_zero", loaded.stored(name)[1]).float(), loaded.get(name))
    whole, packed = found, tiny.logits(source)
    assert 0 < (whole - packed).norm() / whole.norm() < 0.05  # activations are rounded


def assert_on_a_gpu(source, name):
    """There the codes stay as they are, their scales by output, or by output and 128 inputs."""
    loaded, format = load(source, "cuda"), "fp8_block" if "block" in name else "fp8"
    if "e5m2" in name:
        assert loaded.as_stored == "fp32"
        return
    assert str(loaded.as_stored) == format
    loaded._device = "cpu"  # where its tensors can be looked at
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LINEAR_ARITHMETIC["cpu"], format, "fp8")
        for weight in ("layers.0.mixer.q.weight", "layers.1.ffn.down.weight"):
            assert torch.equal(meaning(format, loaded.stored(weight)[1]).float(), loaded.get(weight))


def test_exact_scales_give_bf16(tmp_path, caplog):
    from tests.quant.packings import fp8

    stored, meant = {}, {}
    for name, values in tiny.random_weights().items():
        if tiny.is_linear(name):
            parts, meant[name] = fp8("block", "weight_scale_inv", exact=True)(values)
            stored |= {f"{name.removesuffix('.weight')}.{end}": part for end, part in parts.items()}
        else:
            stored[name] = meant[name] = values.bfloat16()
    found = load(tiny.write(tmp_path, stored, quantization_config=CASES["fp8 block"].config))
    assert found.format == "bf16"
    assert "unpacked to bf16, which holds every value exactly; its scales of activations are not used" in caplog.text
    name = "layers.1.ffn.up.weight"
    assert torch.equal(found.get(name).float(), meant["model.layers.1.mlp.up_proj.weight"])


def config(**more):
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, **more}


def groups(format="pack-quantized", type_="int", **more):
    stated = {"a": {"weights": {"type": type_, "num_bits": 4}}}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": stated, **more}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' is not supported; supported: awq, compressed-"),
        ({}, "quant_method=None is not supported"),
        ([1], "must be a JSON object"),
        (config(bits=3), r"\(gptq\): bits=3 is not supported; supported: 2, 4, 8"),
        (config(bits=True), "bits=True is not supported"),
        (config(group_size=0), "group_size=0 must be"),
        (config(checkpoint_format="marlin"), "checkpoint_format='marlin' is not supported"),
        (config(dynamic={"+:.*": {}}), "dynamic: layers of different kinds"),
        ({"quant_method": "awq", "version": "gemv"}, r"\(awq\): version='gemv' is not supported"),
        ({"quant_method": "awq", "bits": 8}, r"bits=8 is not supported; supported: 4"),
        ({"quant_method": "awq", "zero_point": False}, "zero_point=False is not supported"),
        (groups("nvfp4-pack-quantized", "float"), "'compressed-tensors', format='nvfp4-pack-quantized' is not supported"),
        (groups("marlin-24"), "format='marlin-24' is not supported"),
        (groups(config_groups={}), "must name groups"),
        (groups(config_groups={"a": {"weights": {"num_bits": 3, "type": "int"}}}), "num_bits=3 is not supported; supported: 4, 8"),
        (groups(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config=.* is not supported"),
        (groups(transform_config={"config_groups": {"R1": {}}}), "rotations"),
        (groups(config_groups={"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}}), "groups that differ in num_bits"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"block size \[128\] must be two"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo='NVFP4' is not supported; supported: FP8"),
    ],
)
def test_other_configs_are_refused_by_name(config, message):
    with pytest.raises(CheckpointError, match=message) as error:
        reader_of_config(config)
    assert "take " in str(error.value) or "must be" in str(error.value)


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gptq", lambda t: t.pop(f"{Q}.qzeros"), rf"tensor '{Q}\.qzeros' is missing, which gptq needs"),
        ("gptq", lambda t: t.update({f"{Q}.g_idx": torch.full((256,), 8, dtype=torch.int32)}), rf"'{Q}\.weight': g_idx, scales"),
        ("gptq", lambda t: t.update({f"{Q}.scales": torch.ones(3, 256)}), "do not fit qweight and group_size"),
        ("gptq", lambda t: t.update({f"{Q}.qweight": t[f"{Q}.qweight"][:16]}), r"expected shape \[256, 256\], found \[256, 128\]"),
        ("awq", lambda t: t.update({f"{Q}.scales": torch.ones(3, 256)}), "do not fit qweight and group_size"),
        ("packed", lambda t: t.update({f"{Q}.weight_scale": torch.ones(256, 7)}), r"of shape \[256, 7\] does not fit 256 x 256"),
        ("int8 channel", lambda t: t.update({f"{Q}.weight_scale": torch.ones(3)}), r"a scale of shape \[3\] does not fit 256 x 256"),
        ("fp8 block", lambda t: t.update({f"{Q}.weight_scale_inv": torch.ones(3, 2)}), r"\[3, 2\] does not fit .* blocks of 128 x 128"),
        ("fp8 block", lambda t: t.pop(f"{Q}.weight_scale_inv"), "has neither weight_scale nor weight_scale_inv"),
        ("gptq", lambda t: [t.pop(name) for name in list(t) if "proj" in name], r"no tensor is called \*\.qweight"),
    ],
)
def test_damaged_checkpoints_are_named(tmp_path, name, change, message):
    case, stored = LOADED[name], {}
    for tensor_name, values in tiny.random_weights().items():
        parts = case.pack(values)[0] if tiny.is_linear(tensor_name) else {"weight": values}
        stored |= {f"{tensor_name.removesuffix('.weight')}.{end}": part for end, part in parts.items()}
    change(stored)
    with pytest.raises(CheckpointError, match=message):
        tiny.logits(tiny.write(tmp_path, stored, quantization_config=case.config))
