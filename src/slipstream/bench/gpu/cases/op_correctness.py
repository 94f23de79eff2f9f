"""Correctness: every Triton op against the reference op on the CPU, at the shapes of the tests and at a real model's."""

import torch

from slipstream.bench.gpu import family_scenes, scenes
from slipstream.bench.gpu.bench import Bench, Unavailable
from slipstream.bench.gpu.shapes import Heads
from slipstream.ops import Kernels
from slipstream.ops.types import E4M3

QUESTION = "Does every Triton kernel compute the right thing on the device?"
ORDER, SECONDS = 20, 70
SMALL, REAL = Heads("small", 4, 2, 16), Heads("llama-3.1-8b", 32, 8, 128)
ODD = Heads("odd", 6, 2, 24)
FP32, BF16, FP8 = torch.float32, torch.bfloat16, torch.float8_e4m3fn
FORMATS = ("fp32", "bf16", "int8", "q8_0", "int4")


def makers(dry: bool) -> list[tuple[str, callable]]:
    """(label, how to make the scene); made one at a time, so that a scene that fails costs itself only."""
    few = 3 if dry else 33
    out = [
        ("embed", lambda: scenes.embed(few, 96, 50, BF16)),
        ("norm", lambda: scenes.norm(few, 333, False)),
        ("norm residual", lambda: scenes.norm(few, 333, True)),
        ("gated", lambda: scenes.gated(few, 150)),
        ("rope_write fp32", lambda: scenes.rope_write(few, ODD, FP32)),
        ("rope_write bf16", lambda: scenes.rope_write(few, SMALL, BF16)),
        ("attention fp32", lambda: scenes.attention(few, SMALL, FP32, 40)),
        ("attention bf16", lambda: scenes.attention(few, ODD, BF16, 40)),
        ("attention tree", lambda: scenes.attention(few, SMALL, FP32, 40, tree=5)),
        ("attention window", lambda: scenes.attention(few, SMALL, FP32, 40, window=9, tree=5)),
        ("rope_write fp8", lambda: scenes.rope_write(few, SMALL, FP8)),
        ("attention fp8", lambda: scenes.attention(few, SMALL, FP8, 40, window=9, tree=5)),
        ("move fp8", lambda: scenes.move(9, SMALL, FP8)),
        ("sample", lambda: scenes.sample(6 if dry else 60, 203)),
        ("logprobs", lambda: scenes.logprobs(few, 203)),
        ("move", lambda: scenes.move(9, SMALL, BF16)),
        ("lay_out", lambda: scenes.lay_out(few, 4)),
        ("walk", lambda: scenes.walk(few, 4)),
        *((f"linear {format}", lambda format=format: scenes.linear(few, 96, 64, format)) for format in FORMATS),
        *((f"deterministic linear {format}", lambda format=format: scenes.linear(few, 96, 64, format)) for format in ("fp32", "bf16")),
        *((f"linear {format}", lambda format=format: scenes.linear(few, 96, 256, format)) for format in E4M3),
        *family_scenes.all_of(few, 96, SMALL, FP32, 40),
    ]
    if dry:
        return out
    return out + [
        ("real attention bf16", lambda: scenes.attention(37, REAL, BF16, 1500, tree=7)),
        ("deterministic attention", lambda: scenes.attention(37, REAL, BF16, 1500, tree=7)),
        ("real attention many rows", lambda: scenes.attention(530, REAL, BF16, 300, tree=3)),
        ("real attention one row", lambda: scenes.attention(1, REAL, BF16, 3000)),
        ("real attention fp32", lambda: scenes.attention(16, REAL, FP32, 1200, window=700, tree=3)),
        ("real attention fp8", lambda: scenes.attention(37, REAL, FP8, 1500, tree=7)),
        ("real attention fp8 few rows", lambda: scenes.attention(9, REAL, FP8, 1500)),
        ("real attention fp8 one row", lambda: scenes.attention(1, REAL, FP8, 3000)),
        ("real attention fp8 many rows", lambda: scenes.attention(530, REAL, FP8, 300)),
        ("deterministic attention fp8", lambda: scenes.attention(37, REAL, FP8, 1500, tree=7)),
        ("real rope_write fp8", lambda: scenes.rope_write(65, REAL, FP8)),
        ("real embed", lambda: scenes.embed(65, 4096, 1000, BF16)),
        ("real norm", lambda: scenes.norm(129, 4096, True)),
        ("real gated", lambda: scenes.gated(65, 14336)),
        ("real rope_write", lambda: scenes.rope_write(65, REAL, BF16)),
        ("real sample", lambda: scenes.sample(12, 128256)),
        ("real logprobs", lambda: scenes.logprobs(8, 128256)),
        *((f"real {name}", make) for name, make in family_scenes.all_of(65, 4096, REAL, BF16, 1200)),
        *((f"real linear {format}", lambda format=format: scenes.linear(17, 6144, 4096, format)) for format in ("bf16", "fp6", *E4M3)),
        ("real experts many rows", lambda: family_scenes.experts(300, 2048, 768)),
        ("deterministic experts", lambda: family_scenes.experts(65, 2048, 768)),
        *(
            (f"real linear {format} of {rows} rows", lambda format=format, rows=rows: scenes.linear(rows, 1280, 1024, format))
            for format in ("int8", "int4")
            for rows in (13, 61, 300)
        ),
        ("real linear fp8 many rows", lambda: scenes.linear(129, 6144, 4096, "fp8")),  # by torch's product
    ]


def measure(bench: Bench) -> None:
    reference = Kernels(only="reference")

    def one(maker: tuple[str, callable]) -> None:
        kernels, scene = scenes.triton_kernels(maker[0].startswith("deterministic")), maker[1]()
        if getattr(kernels, scene.op, True) is None:
            raise Unavailable(f"the Triton candidate has no {scene.op}")
        index = range(scene.rows)
        wanted = scene.compute(reference, index)
        moved = scene.on(bench.device)
        found, again = moved.compute(kernels, index), moved.compute(kernels, index)
        bench.clock.synchronize()
        repeats = all(same_bits(a, b) for a, b in zip(found, again, strict=True))
        errors = [distance(a.cpu(), b) for a, b in zip(found, wanted, strict=True)]
        agree = min((share_equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True) if not b.is_floating_point()), default=1.0)
        right = max(errors, default=0.0) <= scene.tolerance and agree >= scene.agree
        bench.row(
            scene=maker[0], op=scene.op, shape=scene.label, rows=scene.rows, right=right,
            error=max(errors, default=0.0), allowed=scene.tolerance,
            equal_ids=agree, repeats=repeats,
        )  # fmt: skip

    bench.each(makers(bench.dry), lambda maker: maker[0], one)


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted| of floats (infinity where one is NaN and the other is not); 0 for ids."""
    if not wanted.is_floating_point():
        return 0.0
    a, b = found.double(), wanted.double()
    if not torch.equal(a.isnan(), b.isnan()) or not torch.equal(a.isinf(), b.isinf()):
        return float("inf")
    a, b = a[b.isfinite()], b[b.isfinite()]
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def share_equal(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Share of the rows whose ids are all the same."""
    return float((found == wanted).view(len(wanted), -1).all(1).double().mean())


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def answer(rows: list[dict]) -> list[str]:
    wrong = [f"{row['scene']} {row['shape']} (error {row['error']:.1e}, ids {row['equal_ids']:.3f})" for row in rows if not row["right"]]
    shaky = [f"{row['scene']} {row['shape']}" for row in rows if not row["repeats"]]
    out = [f"{len(rows) - len(wrong)} of {len(rows)} scenes right" + (f"; WRONG: {', '.join(wrong)}" if wrong else "")]
    return out + ([f"two runs on the same input differ (a race?): {', '.join(shaky)}"] if shaky else [])
