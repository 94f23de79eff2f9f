"""Ops that only some families need: right against fp64, native against the reference, the same bits in every batch, on every
instruction set and with every number of threads."""

import math

import pytest
import torch
import torch.nn.functional as F

from slipstream.arch import RouterSpec
from slipstream.base import native
from slipstream.base.errors import BackendError, InputError
from slipstream.ops import Declined, Kernels, dispatch, reference
from slipstream.ops.reference import arithmetic
from slipstream.ops.types import FAMILY_OPS
from tests.ops.scenes import attend, build_scene, equal_bits, random

ROWS, WIDTH, CAP = 37, 203, 3.0
U = 2.0**-24
needs_native = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")


def on_rows(*tensors):
    """Copies of some rows of the inputs: what a smaller batch would hold."""
    return lambda index: [tensor[index].contiguous() for tensor in tensors]


def layer_norm(kernels):
    weight, bias, pick = random(WIDTH, seed=3), random(WIDTH, seed=4), on_rows(random(ROWS, WIDTH, seed=1) + 5, random(ROWS, WIDTH, seed=2))

    def compute(index):
        x, residual = pick(index)
        out = torch.empty_like(x)
        kernels.layer_norm(x, weight, bias, 1e-5, out, residual)
        return torch.cat([x, out], 1)

    return compute


def norm_slices(kernels):
    weight, pick = random(4 * 20, seed=3), on_rows(random(ROWS, WIDTH, seed=1))

    def compute(index):
        (x,) = pick(index)
        kernels.norm_slices(x, weight, 16, 20, 1e-5)
        return x

    return compute


def in_place(op, *arguments):
    def make(kernels):
        pick = on_rows(random(ROWS, WIDTH, seed=1) * 4)

        def compute(index):
            (x,) = pick(index)
            getattr(kernels, op)(x, *arguments)
            return x

        return compute

    return make


def add(kernels):
    pick = on_rows(random(ROWS, WIDTH, seed=1), random(ROWS, WIDTH, seed=2))

    def compute(index):
        x, y = pick(index)
        kernels.add(x, y)
        return x

    return compute


def gated(op):
    def make(kernels):
        pick = on_rows(random(ROWS, 2 * WIDTH, seed=1) * 4)

        def compute(index):
            (x,) = pick(index)
            out = torch.empty(len(x), WIDTH)
            getattr(kernels, op)(x, out)
            return out

        return compute

    return make


def route(correction, **rule):
    """Weights of all experts of a row, 0 for those it does not go to."""

    def make(kernels):
        pick, router = on_rows(random(ROWS, EXPERTS, seed=1) * 2), RouterSpec(EXPERTS, 3, **rule)
        bias = random(EXPERTS, seed=2) if correction else None

        def compute(index):
            (logits,) = pick(index)
            numbers, shares = torch.empty(len(logits), 3, dtype=torch.int32), torch.empty(len(logits), 3)
            kernels.route(logits, bias, router, numbers, shares)
            assert (numbers.diff() > 0).all(), "each expert once, in ascending order"
            return torch.zeros_like(logits).scatter_(1, numbers.long(), shares)

        return compute

    return make


def routed_exactly(scores, choice, kept=None):
    """The three greatest choices of each row of scores, in fp64."""
    if kept is not None:
        choice = torch.where(kept, choice, -math.inf)
    return torch.zeros_like(scores).scatter(1, choice.topk(3).indices, 1) * scores


def routed(kernels):
    """Two of three experts per row, which multiply by 2, 3 and 5."""
    pick, linear = on_rows(random(ROWS, WIDTH, seed=1), random(ROWS, 2, seed=3)), kernels.linear("fp32")
    weights = [linear.prepare({"weight": torch.eye(WIDTH) * factor}) for factor in (2, 3, 5)]
    layers = [lambda x, out, weight=weight: linear.run(x, weight, None, out) for weight in weights]

    def compute(index):
        x, shares = pick(index)
        out, buffers = torch.full_like(x, torch.nan), [torch.empty_like(x) for _ in range(2)]
        kernels.routed(x, CHOSEN[index].contiguous(), shares, layers, *buffers, out)
        return out

    return compute


def gated_clamped(kernels):
    pick = on_rows(random(ROWS, 2 * WIDTH, seed=1) * 4)

    def compute(index):
        (x,) = pick(index)
        out = torch.empty(len(x), WIDTH)
        kernels.gated_clamped(x, out, 3.0, 1.702)
        return out

    return compute


def clamped_exactly(gate, up):
    gate = gate.clamp(max=3)
    return gate * torch.sigmoid(torch.tensor(1.702).double() * gate) * (up.clamp(-3, 3) + 1)


def gate_rows(kernels):
    pick = on_rows(random(ROWS, WIDTH, seed=1), random(ROWS, 1, seed=2) * 4)

    def compute(index):
        x, gate = pick(index)
        kernels.gate_rows(x, gate)
        return x

    return compute


COLUMNS = torch.where(torch.arange(9001) % 3 == 1, torch.arange(9001) * 7 % WIDTH, -1).int()


def spread(kernels):
    pick = on_rows(random(ROWS, WIDTH, seed=1))

    def compute(index):
        out = torch.full((len(index), len(COLUMNS)), torch.nan)
        kernels.spread(pick(index)[0], COLUMNS, out)
        return out

    return compute


def slices_exactly(x):
    part = x[:, 16:96].view(ROWS, 4, 20)
    x = x.clone()
    x[:, 16:96] = (part / (part.square().mean(-1, keepdim=True) + 1e-5).sqrt() * random(80, seed=3).double().view(4, 20)).flatten(1)
    return x


EXPERTS = 12
SOFT = torch.softmax((random(ROWS, EXPERTS, seed=1) * 2).double(), 1)
SIGMOID = torch.sigmoid((random(ROWS, EXPERTS, seed=1) * 2).double())
CORRECTED = SIGMOID + random(EXPERTS, seed=2).double()
BEST_GROUPS = CORRECTED.view(ROWS, 4, 3).topk(2).values.sum(-1).topk(2).indices  # [rows, 2]
KEPT = torch.zeros(ROWS, 4, dtype=torch.bool).scatter(1, BEST_GROUPS, True).repeat_interleave(3, 1)
GROUPED = routed_exactly(SIGMOID, CORRECTED, KEPT)
CHOSEN, SHARES = torch.tensor([[0, 1], [0, 2], [1, 2]], dtype=torch.int32)[torch.arange(ROWS) % 3], random(ROWS, 2, seed=3).double()
X, Y = random(ROWS, WIDTH, seed=1).double(), random(ROWS, WIDTH, seed=2).double()
GATE_UP = (random(ROWS, 2 * WIDTH, seed=1) * 4).double()
SUM = (X.float() + 5 + Y.float()).double()
FOUR = (X.float() * 4).double()
# op -> (maker, the result in fp64)
OPS = {
    "layer_norm": (layer_norm, torch.cat([SUM, F.layer_norm(SUM, (WIDTH,), *(random(WIDTH, seed=s).double() for s in (3, 4)))], 1)),
    "norm_slices": (norm_slices, slices_exactly(X)),
    "gelu": (in_place("gelu"), F.gelu(FOUR)),
    "gelu_tanh": (in_place("gelu_tanh"), F.gelu(FOUR, approximate="tanh")),
    "gated_gelu": (gated("gated_gelu"), F.gelu(GATE_UP[:, :WIDTH]) * GATE_UP[:, WIDTH:]),
    "gated_gelu_tanh": (gated("gated_gelu_tanh"), F.gelu(GATE_UP[:, :WIDTH], approximate="tanh") * GATE_UP[:, WIDTH:]),
    "route": (route(False, normed=False, scale=1.5), 1.5 * routed_exactly(SOFT, SOFT)),
    "route in groups": (route(True, scoring="sigmoid", groups=4, kept=2, group_best=2), GROUPED / GROUPED.sum(1, keepdim=True)),
    "routed": (routed, sum(X * (SHARES[:, i, None] * torch.tensor([2.0, 3, 5])[CHOSEN[:, i].long(), None]) for i in range(2))),
    "gate_rows": (gate_rows, X * torch.sigmoid((random(ROWS, 1, seed=2) * 4).double())),
    "gated_clamped": (gated_clamped, clamped_exactly(GATE_UP[:, :WIDTH], GATE_UP[:, WIDTH:])),
    "add": (add, X + Y),
    "scale": (in_place("scale", 1.7), FOUR * torch.tensor(1.7).double()),
    "softcap": (in_place("softcap", CAP), CAP * torch.tanh(FOUR / CAP)),
    "spread": (spread, torch.where(COLUMNS < 0, -torch.inf, X[:, COLUMNS.clamp(min=0).long()])),
}


def test_all_of_them_are_here():
    assert {*(op.split()[0] for op in OPS), "attention_softcap", "attention_sinks"} == set(FAMILY_OPS)


def test_experts_with_equal_scores_go_by_their_numbers(kernels):
    numbers, shares = torch.empty(1, 3, dtype=torch.int32), torch.empty(1, 3)
    kernels.route(torch.tensor([[1.0, 2, 1, 2, 1, 1]]), None, RouterSpec(6, 3), numbers, shares)
    assert numbers.tolist() == [[0, 1, 3]] and shares[0, 1] == shares[0, 2]
    kernels.route(torch.zeros(1, 6), None, RouterSpec(6, 3, groups=3, kept=2), numbers, shares)
    assert numbers.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("op", OPS)
def test_right(kernels, op):
    make, expected = OPS[op]
    torch.testing.assert_close(make(kernels)(torch.arange(ROWS)).double(), expected, rtol=1e-6, atol=3e-6)


@needs_native
@pytest.mark.parametrize("op", ["route", "route in groups", "routed", "gate_rows", "gated_clamped"])
def test_native_experts_have_the_bits_of_the_reference(op):
    native_side, reference_side = (OPS[op][0](Kernels(only=only))(torch.arange(ROWS)) for only in ("cpu", "reference"))
    assert equal_bits(native_side, reference_side)


@pytest.mark.parametrize("op", OPS)
def test_a_row_has_the_same_bits_in_every_batch(kernels, threads, op):
    compute = OPS[op][0](kernels)
    threads(1)
    alone = torch.cat([compute(torch.tensor([row])) for row in range(ROWS)])
    for count in (1, 2, 3):
        threads(count)
        for seed in range(4):
            index = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))[: 5 + 8 * seed]
            assert equal_bits(compute(index), alone[index]), (count, seed)


@needs_native
@pytest.mark.parametrize("op", OPS)
def test_every_instruction_set_gives_the_same_bits(op):
    compute, module = OPS[op][0](Kernels(only="cpu")), native.module
    best = module.isa()
    try:
        results = []
        for isa in module.isas():
            module.force_isa(isa)
            results.append(compute(torch.arange(ROWS)))
    finally:
        module.force_isa(best)
    assert all(equal_bits(result, results[0]) for result in results)


ELEMENTARY = [  # without torch's gelu: its tail is a difference of nearly equal numbers
    (2, arithmetic.tanh, torch.tanh),
    (3, arithmetic.gelu_of, lambda x: x / 2 * torch.special.erfc(-x * math.sqrt(0.5))),
    (4, arithmetic.gelu_tanh_of, lambda x: x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))),
]


@needs_native
@pytest.mark.parametrize("which, ours, exact", ELEMENTARY)
def test_elementary_functions(which, ours, exact):
    """Relative to the value where that is not tiny; the tails of gelu come from exp of rounded squares."""
    x = torch.cat([torch.linspace(-12, 12, 1 << 16), torch.logspace(-20, 0, 4096), -torch.logspace(-20, 0, 4096)])
    out, want = torch.empty_like(x), exact(x.double())
    native.module.elementary(which, x.data_ptr(), out.data_ptr(), len(x))
    tail = x.double().square() + 4 if which > 2 else 4
    for found in (out, ours(x)):
        assert ((found.double() - want).abs() / (want.abs() * U * 2 * tail + 1e-36)).max() <= 1


@needs_native
def test_elementary_functions_far_out():
    x = torch.tensor([0.0, -0.0, 100.0, -100.0, 1e30, -1e30, math.nan] + [0.0] * 9)
    for which, expected in ((2, [0, 0, 1, -1, 1, -1]), (3, [0, 0, 100, 0, 1e30, 0]), (4, [0, 0, 100, 0, 1e30, 0])):
        out = torch.empty_like(x)
        native.module.elementary(which, x.data_ptr(), out.data_ptr(), len(x))
        assert torch.equal(out[:6], torch.tensor(expected, dtype=torch.float32)) and out[6].isnan(), (which, out)


def capped(kernels, scene, window=0, cap=CAP, scale=0.25):
    out = torch.full((len(scene.qkv), scene.heads * scene.kv.head_dim), torch.nan)
    kernels.attention_softcap(scene.qkv, scene.kv, scene.rows, scene.heads, scale, window, out, cap)
    return out


PLACES = [(0, 1100, 0), (1, 0, 0), (1, 39, 2), (0, 511, 0), (0, 512, 3), (1, 17, 18)]


@pytest.mark.parametrize("window", [0, 33])
def test_attention_softcap_is_right(kernels, window):
    scene = build_scene(PLACES, group=3, head_dim=20)
    found = capped(kernels, scene, window).view(len(PLACES), -1, 20)
    for row, (keys, values) in enumerate(zip(scene.keys, scene.values, strict=True)):
        keys, values = (part[-window:].double() for part in (keys, values))
        for head in range(scene.heads):
            q = scene.qkv[row, head * 20 : head * 20 + 20].double()
            weights = torch.softmax(CAP * torch.tanh(keys[:, head // 3] @ q * 0.25 / CAP), 0)
            torch.testing.assert_close(found[row, head].double(), weights @ values[:, head // 3], rtol=3e-6, atol=3e-6)


def test_attention_softcap_rows_do_not_depend_on_their_company(kernels):
    together = capped(kernels, build_scene(PLACES), 700)
    for row, place in enumerate(PLACES):
        assert equal_bits(capped(kernels, build_scene([place], layout=3, page_size=7), 700)[0], together[row])
    assert equal_bits(capped(kernels, build_scene([(1, 17, 0)]), 700)[0], together[5]), "a tree row and a trunk row"


@needs_native
def test_attention_softcap_is_the_same_on_every_instruction_set():
    kernels, module, results = Kernels(only="cpu"), native.module, []
    best = module.isa()
    try:
        for isa in module.isas():
            module.force_isa(isa)
            results.append(capped(kernels, build_scene(PLACES, group=3, dtype=torch.bfloat16), 300))
    finally:
        module.force_isa(best)
    assert all(equal_bits(result, results[0]) for result in results)


def with_sinks(kernels, scene, window=0, level=0.0):
    out = torch.full((len(scene.qkv), scene.heads * scene.kv.head_dim), torch.nan)
    sinks = random(scene.heads, seed=9) * 3 + level
    kernels.attention_sinks(scene.qkv, scene.kv, scene.rows, scene.heads, 0.25, window, out, sinks)
    return out


@pytest.mark.parametrize("window", [0, 33])
def test_attention_sinks_is_right(kernels, window):
    scene = build_scene(PLACES, group=3, head_dim=20)
    sinks = (random(scene.heads, seed=9) * 3).double()
    found = with_sinks(kernels, scene, window).view(len(PLACES), -1, 20)
    for row, (keys, values) in enumerate(zip(scene.keys, scene.values, strict=True)):
        keys, values = (part[-window:].double() for part in (keys, values))
        for head in range(scene.heads):
            q = scene.qkv[row, head * 20 : head * 20 + 20].double()
            weights = torch.softmax(torch.cat([keys[:, head // 3] @ q * 0.25, sinks[head : head + 1]]), 0)[:-1]
            torch.testing.assert_close(found[row, head].double(), weights @ values[:, head // 3], rtol=3e-6, atol=3e-6)


def test_attention_sinks_rows_do_not_depend_on_their_company(kernels):
    together = with_sinks(kernels, build_scene(PLACES), 700)
    for row, place in enumerate(PLACES):
        assert equal_bits(with_sinks(kernels, build_scene([place], layout=3, page_size=7), 700)[0], together[row])


@needs_native
def test_attention_sinks_is_the_same_on_every_instruction_set():
    kernels, module, results = Kernels(only="cpu"), native.module, []
    best = module.isa()
    try:
        for isa in module.isas():
            module.force_isa(isa)
            results.append(with_sinks(kernels, build_scene(PLACES, group=3, dtype=torch.bfloat16), 300))
    finally:
        module.force_isa(best)
    assert all(equal_bits(result, results[0]) for result in results)


def test_a_sink_that_nothing_reaches_is_none_and_one_above_all_takes_all(kernels):
    scene = build_scene(PLACES)
    assert equal_bits(with_sinks(kernels, scene, level=-1000), attend(kernels, scene))
    assert (with_sinks(kernels, scene, level=1000) == 0).all()


def test_a_wide_cap_is_nearly_none(kernels):
    scene = build_scene(PLACES)
    torch.testing.assert_close(capped(kernels, scene, cap=1e5), attend(kernels, scene), rtol=1e-5, atol=1e-5)


def test_what_a_device_lacks_is_said_when_it_is_asked_for(monkeypatch):
    served = reference.offer

    def without_layer_norm(op, device):
        return Declined("not written yet") if op == "layer_norm" else served(op, device)

    monkeypatch.setattr(reference, "offer", without_layer_norm)
    monkeypatch.setattr(dispatch, "CANDIDATES", ("reference",))
    kernels = Kernels()
    assert kernels.norm is reference.norm and kernels.scale is reference.scale
    with pytest.raises(BackendError, match="'layer_norm' has no kernel on device 'cpu': reference: not written yet"):
        _ = kernels.layer_norm


def test_errors_name_what_is_wrong():
    if native.module is None:
        pytest.skip(f"no native module: {native.reason}")
    kernels = Kernels(only="cpu")
    with pytest.raises(InputError, match="cap=0"):
        kernels.softcap(torch.zeros(1, 4), 0)
    with pytest.raises(InputError, match="norm_slices: 8 columns from 4 on in slices of 3"):
        kernels.norm_slices(torch.zeros(1, 12), torch.zeros(8), 4, 3, 1e-5)
    with pytest.raises(InputError, match="add: y must be"):
        kernels.add(torch.zeros(1, 4), torch.zeros(1, 5))
