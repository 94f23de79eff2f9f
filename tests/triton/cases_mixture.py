"""In the interpreter: all experts at once against each row by itself in torch, for every way rows may crowd; and that a row depends on
itself only, bit by bit."""

from dataclasses import replace

import pytest
import torch
from candidate import KERNELS
from scenes import equal_bits, random

from slipstream.arch import MoeSpec, RouterSpec, shape
from slipstream.base.errors import InputError
from slipstream.cost.memory import experts_bytes
from slipstream.ops.triton import mixture
from slipstream.ops.types import AT_ONCE, LINEAR_FORMATS, Activation

HIDDEN, WIDTH, EXPERTS = 40, 24, 5
SILU, GELU, CLAMPED = Activation("silu"), Activation("gelu_tanh"), Activation("clamped", 1.5, 1.7)
CROWDS = {  # the experts of each row
    "every expert, one without rows": [[0, 3], [1, 4], [0, 1], [3, 4], [0, 4]],
    "all on one": [[2]] * 37,
    "one row": [[1, 3, 4]],
    "many rows": [[number % 4, 4] for number in range(90)],
}


def layer(dtype: torch.dtype, biased: bool):
    """What a kernel prepares of random experts, and their numbers in fp64."""
    stored = [{"weight": random(EXPERTS, *shape, seed=1).to(dtype)} for shape in ((2 * WIDTH, HIDDEN), (HIDDEN, WIDTH))]
    plain = [part["weight"].double() for part in stored]
    if dtype is torch.float8_e4m3fn:
        for number, part in enumerate(stored):
            part["scale"] = random(*part["weight"].shape[:2], seed=7).abs()
            plain[number] *= part["scale"].double()[..., None]
    biases = (random(EXPERTS, 2 * WIDTH, seed=3), random(EXPERTS, HIDDEN, seed=4)) if biased else ()
    return (*stored, biases), (*plain, *(bias.double() for bias in biases))


def rows_of(crowd: list[list[int]]):
    experts = torch.tensor(crowd, dtype=torch.int32)
    return random(len(crowd), HIDDEN, seed=5), experts, random(*experts.shape, seed=6).abs()


def run(kernel, prepared, x, experts, shares, activation=SILU):
    out = torch.full_like(x, torch.nan)
    kernel.run(x, experts, shares, prepared, activation, out)
    return out


def one_by_one(plain, x, experts, shares, activation, dtype):
    """Row after row in fp64; what lies between two products is rounded as the kernels round it."""
    gate_up, down, *biases = plain
    out = torch.zeros_like(x, dtype=torch.float64)
    for row, (numbers, parts) in enumerate(zip(experts.tolist(), shares.tolist(), strict=True)):
        for expert, share in zip(numbers, parts, strict=True):
            made = gate_up[expert] @ x[row].to(dtype).double() + (biases[0][expert] if biases else 0)
            gate, up = made.chunk(2)
            if activation.name == "clamped":
                gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
                inner = gate * torch.sigmoid(gate * activation.slope) * (up + 1)
            else:
                act = torch.nn.functional.silu(gate) if activation is SILU else torch.nn.functional.gelu(gate, approximate="tanh")
                inner = act * up
            out[row] += share * (down[expert] @ inner.float().to(dtype).double() + (biases[1][expert] if biases else 0))
    return out.float()


WAYS = [*((crowd, "bf16", SILU, False) for crowd in CROWDS), ("one row", "fp32", GELU, False), ("one row", "bf16", CLAMPED, True)]
WAYS += [("every expert, one without rows", "fp8", SILU, True), ("one row", "fp8", CLAMPED, True), ("one row", "fp8", SILU, False)]


@pytest.mark.parametrize("crowd, format, activation, biased", WAYS)
def test_every_row_has_the_sum_of_its_experts(crowd, format, activation, biased):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}[format]
    kernel, (stored, plain), given = KERNELS.experts(format), layer(dtype, biased), rows_of(CROWDS[crowd])
    found = run(kernel, kernel.prepare(*stored), *given, activation)
    wanted = one_by_one(plain, *given, activation, torch.bfloat16 if format == "fp8" else dtype)
    size = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=size * (1e-6 if format == "fp32" else 2**-8))


def test_a_row_has_the_same_bits_in_every_crowd():
    kernel = KERNELS.experts("bf16").deterministic()
    prepared = kernel.prepare(*layer(torch.bfloat16, False)[0])
    x, experts, shares = rows_of(CROWDS["many rows"])
    whole = run(kernel, prepared, x, experts, shares)
    for index in ([89], [3, 3, 0], list(range(80, 20, -1))):
        assert equal_bits(run(kernel, prepared, x[index], experts[index].contiguous(), shares[index]), whole[index])


def test_fast_settings_take_small_tiles_for_few_rows():
    few, many = (mixture.tile_of(pairs, 8, "*bf16", False) for pairs in (128, 129))
    assert [few, many] == [tile for _, tile in mixture.FAST.now] and many == mixture.MANY
    assert mixture.tile_of(2, 8, "*bf16", True) is mixture.MANY
    assert [mixture.tiles_of(pairs, 8, few) for pairs in (2, 8, 16, 160)] == [2, 8, 9, 18]


@pytest.mark.parametrize("format", AT_ONCE)
def test_what_it_takes_is_in_the_plan(format, monkeypatch):
    dtype = LINEAR_FORMATS[format]["weight"][0]
    kernel, (stored, _), given = KERNELS.experts(format), layer(dtype, False), rows_of(CROWDS["one row"])
    prepared, taken, make = kernel.prepare(*stored), [], torch.empty
    out = torch.empty_like(given[0])
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: taken.append(make(*shape, **options)) or taken[-1])
    kernel.run(*given, prepared, SILU, out)
    ffn = MoeSpec(RouterSpec(EXPERTS, 3), HIDDEN, WIDTH)
    spec = replace(shape("tiny"), layers=(replace(shape("tiny").layers[0], ffn=ffn),))
    assert sum(part.nbytes for part in taken) == experts_bytes(spec, 1, AT_ONCE[format])


def test_pairs_that_no_router_made_stay_in_bounds():
    """Rows that fill up a step may hold anything: numbers of no expert, or one expert twice. Real rows before them are not changed."""
    kernel = KERNELS.experts("bf16")
    prepared = kernel.prepare(*layer(torch.bfloat16, False)[0])
    x, experts, shares = rows_of([[0, 1], [1, 2], [1, 1], [1, 1], [99, -7]])
    found = run(kernel, prepared, x, experts, shares)
    assert equal_bits(found[:2], run(kernel, prepared, x[:2], experts[:2].contiguous(), shares[:2]))


def test_experts_that_do_not_fit_are_refused():
    (gate_up, down, _), _ = layer(torch.bfloat16, False)
    with pytest.raises(InputError, match="do not fit down"):
        KERNELS.experts("bf16").prepare(gate_up, {"weight": down["weight"][:, :, :-1]})
    with pytest.raises(InputError, match="bfloat16"):
        KERNELS.experts("bf16").prepare({"weight": gate_up["weight"].float()}, down)
