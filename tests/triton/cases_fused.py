"""Gate and up as one layer in pairs, in the interpreter: the bits of a linear layer and a gate. Norms as halves of linear layers in whole
models, whose products run by hand: what stays the same, and how many kernels are left. Run by test_interpreted.py.
"""

from dataclasses import replace

import pytest
import torch
from by_hand import products
from candidate import KERNELS
from scenes import equal_bits, fitting, random, stored
from torch.overrides import TorchFunctionMode

from slipstream import LLM, SamplingParams
from slipstream.arch.detect import config_to_spec
from slipstream.model import Decoder, build, load_model
from slipstream.ops import Kernels, triton_deterministic
from slipstream.ops import triton as candidate
from slipstream.ops.triton import fused, plain, whole
from slipstream.ops.triton.launch import Variant
from slipstream.ops.triton.linear import GateUp, PlainLinear
from slipstream.ops.types import E4M3, LINEAR_FORMATS, Declined
from tests.contract.families import CASES
from tests.model.paged import Paged, Rows
from tests.promises.scenarios import prompts

FORMATS = ("bf16", "int4")
offer_on_cuda = candidate.offer


@pytest.fixture
def gating(monkeypatch):
    monkeypatch.setitem(fused.up_to(), "gate", dict.fromkeys(FORMATS, 64))


@pytest.fixture
def norming(monkeypatch):
    monkeypatch.setitem(fused.up_to(), "norm", dict.fromkeys(FORMATS, 16))


@pytest.fixture
def by_hand(monkeypatch):
    """Products by Gluon are chosen as on a GPU, and run by hand."""
    made = products()
    monkeypatch.setattr(plain, "has_groups", lambda device: True)
    monkeypatch.setattr(whole, "runs", lambda way, device: True)
    for module, name in ((plain, "bulk"), (whole, "streamed"), (whole, "folded")):
        monkeypatch.setattr(module, name, getattr(made, name))


def test_formats_that_nobody_measured_decline():
    for format in LINEAR_FORMATS:
        answer = candidate.offer(f"gate_up_{format}", "cuda")
        assert isinstance(answer, Declined) and format in answer.reason


@pytest.mark.parametrize("format, activation, op", [("bf16", "silu", "gated"), ("int4", "gelu_tanh", "gated_gelu_tanh")])
def test_the_bits_of_a_layer_and_a_gate(gating, format, activation, op):
    """Inner size 136: more than a tile of outputs, and pairs that end within one."""
    tensors, x, bias = stored(format, 272, 64), random(3, 64, seed=1), random(272, seed=2)
    linear, whole = KERNELS.linear(format), KERNELS.gate_up(format)
    products, wanted, found = torch.empty(3, 272), torch.empty(3, 136).bfloat16(), torch.full((3, 136), torch.nan).bfloat16()
    linear.run(x, linear.prepare(tensors), bias, products)
    getattr(KERNELS, op)(products, wanted)
    whole.run(x, whole.prepare(tensors, bias), activation, torch.full((3, 272), torch.nan), found)
    assert equal_bits(found, wanted) and whole.reads is linear.reads


def test_deterministic_settings_have_gates_too(gating):
    answer = triton_deterministic.offer("gate_up_int4", "cuda")
    assert answer.linear.invariant and answer == candidate.offer("gate_up_int4", "cuda").deterministic()


def logits(kernels, format: str, step: list[Rows]) -> list[torch.Tensor]:
    """And what the last layer reads."""
    paged, rows = Paged(tiny(kernels, format)), sum(len(one.tokens) for one in step)
    paged.decoder.watch([1])
    return [*paged.step(*step), paged.decoder.states(torch.empty(0), torch.arange(rows))]


def test_other_activations_have_no_gate_within(monkeypatch, gating):
    monkeypatch.setattr(candidate, "offer", lambda op, device: offer_on_cuda(op, "cuda"))
    assert isinstance(Kernels(only="triton").gate_up("int4"), GateUp)
    assert Kernels(only="triton", activations="fp8").gate_up("int4") is None


def tiny(kernels, format: str) -> Decoder:
    return load_model("dummy:tiny:fp32", kernels, quant=format, max_rows=20, max_logit_rows=20)


@pytest.mark.parametrize("format", ["bf16", "fp32"])
def test_gates_change_no_logits(monkeypatch, gating, format):
    """fp32 layers stay apart: their kernel declines."""
    step = [Rows(0, [3, 1, 4, 1])]
    with monkeypatch.context() as without:
        without.setitem(fused.up_to(), "gate", {})
        wanted = logits(KERNELS, format, step)
    found = logits(KERNELS, format, step)
    assert all(map(equal_bits, found, wanted)) and KERNELS.gate_up("fp32") is None


@pytest.mark.parametrize("format", FORMATS)
def test_norms_in_halves_are_as_near_to_the_reference(monkeypatch, by_hand, gating, norming, format):
    step = [Rows(0, [6]), Rows(1, [3, 1])]
    exact = logits(Kernels(only="reference"), format, step)
    with monkeypatch.context() as without:
        without.setitem(fused.up_to(), "norm", {})
        apart = logits(KERNELS, format, step)
    for mine, other, wanted in zip(logits(KERNELS, format, step), apart, exact, strict=True):
        assert not equal_bits(mine, other), "nothing was fused"
        assert (mine - wanted).norm() < 1.3 * (other - wanted).norm() + 1e-3 * wanted.norm()


@pytest.mark.parametrize("format", LINEAR_FORMATS)
def test_who_has_halves_of_norms(monkeypatch, by_hand, format):
    """Up to 16 rows, never in deterministic settings; nobody before it is measured. Plain tiles, which serve fp6, have no ends."""
    linear, gates = KERNELS.linear(format), GateUp(KERNELS.linear(format))
    prepared, can = linear.prepare(stored(format, 64, fitting(format, 128))), format not in ("fp32", "fp6", *E4M3)
    assert not linear.fuses(1, prepared)
    monkeypatch.setitem(fused.up_to(), "norm", dict.fromkeys(LINEAR_FORMATS, 64))
    assert [linear.fuses(rows, prepared) for rows in (1, 8, 17)] == [can, can, False]
    assert gates.fuses(1, (prepared, None)) == can
    assert not linear.deterministic().fuses(1, prepared) and not gates.deterministic().fuses(1, (prepared, None))


@pytest.mark.parametrize("name, fuses", [("llama", True), ("qwen3", True), ("gemma2", False), ("falcon-7b", False), ("mixtral", False)])
def test_which_layers_take_halves(monkeypatch, name, fuses):
    """Not where sub-layers are normed behind, run side by side, have a LayerNorm, or are experts, whatever their kernels could do."""
    monkeypatch.setattr(PlainLinear, "fuses", lambda *of: True)
    case = CASES[name]
    spec = config_to_spec({**case.base, **case.config, "architectures": [case.model]})
    monkeypatch.setattr(build, "shape", lambda name: replace(spec, layers=spec.layers[:1]))
    model = load_model("dummy:one:bf16", KERNELS, max_rows=4, max_logit_rows=4)
    assert [layer.fuses(1) for layer in model._layers] == [fuses]


class Launches(TorchFunctionMode):
    """Names of the kernels that are launched, torch's own among them: all that changes a tensor or makes one that is not empty."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.names, launch = [], Variant.launch

        def counted(variant, *arguments):
            kernel, before = variant.kernel, len(self.names)
            launch(variant, *arguments)
            self.names[before:] = [(kernel.fn if hasattr(kernel, "fn") else kernel.function).__name__]  # without what interprets it

        monkeypatch.setattr(Variant, "launch", counted)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out, name = function(*args, **(kwargs or {})), function.__name__
        if isinstance(out, torch.Tensor) and name != "empty":
            old = any(isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() == out.untyped_storage().data_ptr() for x in args)
            self.names += [name] if not old or name.rstrip("_") + "_" == name else []
        return out


def test_a_layer_of_a_llama_launches_six_kernels(monkeypatch, by_hand, gating, norming):
    """The first norm of a step, and the addition behind its last layer, are kernels of their own."""
    paged = Paged(tiny(KERNELS, "bf16"))
    with Launches(monkeypatch) as launches:
        paged.step(Rows(0, [3]), Rows(1, [5]))
    step = launches.names[launches.names.index("_embed") :]  # before that its facts are made
    layer = ["_product", "_rope_write", "_attend", "_product", "_product", "_product"]
    assert step[:15] == ["_embed", "_norm", *layer, *layer, "_norm"]


def texts() -> list[tuple[list[int], list]]:
    """Greedy, in fast settings: two requests beside each other, in a step of many rows and in steps of few."""
    llm = LLM("dummy:tiny:bf16", kernels="triton", deterministic=False, max_len=64, max_step_tokens=32, max_batch=4)
    params = SamplingParams(max_tokens=2, ignore_eos=True, logprobs=1, temperature=0)
    outputs = llm.generate([prompts(8, 512)[index][:5] for index in (2, 6)], params)
    return [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs]


def test_text_of_the_engine(monkeypatch, by_hand, gating, norming):
    """Of a model whose best tokens are clear: the same, from other bits."""
    monkeypatch.setattr(candidate, "offer", lambda op, device: offer_on_cuda(op, "cuda"))
    found = texts()
    monkeypatch.setitem(fused.up_to(), "norm", {})
    apart = texts()
    assert [tokens for tokens, _ in apart] == [tokens for tokens, _ in found] and apart != found
