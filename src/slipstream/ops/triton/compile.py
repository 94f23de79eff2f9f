"""Ahead-of-time compilation of the kernels to sm_90, and what each form takes of a multiprocessor. Needs Triton, but no GPU.

    python -m slipstream.ops.triton.compile [--shapes tiny llama-3.1-8b] [--formats int4 int8] [--fixed] [--kernels attention norm] [--json]

Owns the list of forms that a model shape uses. Must not know what they compute.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from slipstream.arch.shapes import shape
from slipstream.arch.spec import ModelSpec, RouterSpec
from slipstream.base.errors import BackendError
from slipstream.ops.triton import (
    attention,
    bulk,
    carried,
    elementwise,
    embed,
    experts,
    fp8,
    gated,
    gemm,
    logprobs,
    mixture,
    move,
    norm,
    packed,
    plain,
    rope,
    rounds,
    sample,
    whole,
)
from slipstream.ops.triton.fused import MOST, Ending
from slipstream.ops.triton.launch import Variant
from slipstream.ops.triton.packing import Form
from slipstream.ops.triton.pairs import SIDE
from slipstream.ops.types import LINEAR_FORMATS

TARGET = GPUTarget("cuda", 90, 32)
SHAPES = ("tiny", "demo", "llama-3.2-1b", "llama-3.1-8b")
SHARED_LIMIT = 227 * 1024  # bytes of shared memory that a program may have on sm_90
TABLES = {"fp32": "*fp32", "bf16": "*bf16"}
CACHES = TABLES | {"fp8": "*fp8e4nv"}
ROUTERS = {
    "mixtral": RouterSpec(8, 2),
    "qwen3-moe": RouterSpec(128, 8),
    "deepseek-v3": RouterSpec(256, 8, "sigmoid", groups=8, kept=4, group_best=2, scale=2.5, correction=True),
}
MIXTURES = {  # hidden, inner size, experts, experts of a row, activation, biases
    "mixtral": (4096, 14336, 8, 2, "silu", False),
    "qwen3-moe": (2048, 768, 128, 8, "silu", False),
    "gpt-oss": (2880, 2880, 32, 4, "clamped", True),
}
PACKED = {  # format -> (name, Form of n outputs and k inputs); the 4-bit formats of checkpoints also in the groups that GPTQ and AWQ use
    "int4": (("group 32", lambda n, k: Form(n, k, 4, 32, "*fp16", middle=8)),),
    "int4_zero": tuple((f"group {size}", lambda n, k, size=size: Form(n, k, 4, size, "*fp16", "zero")) for size in (32, 64, 128)),
    "int8": (("", lambda n, k: Form(n, k, 8, 0, "*fp32")),),
    "q8_0": (("", lambda n, k: Form(n, k, 8, 32, "*fp16")),),
    "q4_k": (("", lambda n, k: Form(n, k, 4, 32, "*u8", "sum", wide=256)),),
    "q6_k": (("", lambda n, k: Form(n, k, 8, 16, "*i8", wide=256)),),
    "fp6": (("", lambda n, k: Form(n, k, 6, 0, "*fp32")),),
}
ENDINGS = {  # what the linear layers of a Llama do besides where all is fused: qkv, gate and up, o and down
    "gated": Ending("silu", out="*bf16"),
    "ends a norm": Ending(norm="ends"),
    "ends a norm, gated": Ending("silu", "ends", "*bf16"),
    "begins a norm": Ending(norm="begins"),
}


@dataclass(frozen=True, slots=True)
class Resources:
    """One compiled form.

    Attributes:
        kernel, form: which kernel, and for which shape and types.
        warps: threads of a program / 32.
        registers: per thread.
        shared: bytes per program.
        spills: bytes of local memory per thread, 0 if all fits into registers.
        waits: whether it waits for the kernel before it (chain.py).
        wgmma, mma: how many matrix instructions of Hopper's warp groups and of single warps the PTX has.
        seconds: it took to compile (little if it was cached).
    """

    kernel: str
    form: str
    warps: int
    registers: int
    shared: int
    spills: int
    waits: bool
    wgmma: int
    mma: int
    seconds: float


def forms(names: Iterable[str] = SHAPES) -> list[tuple[str, str, Variant]]:
    """(kernel, form, variant) of everything that the named shapes use, each once."""
    found: dict[tuple, tuple[str, str, Variant]] = {}
    for name in names:
        for kernel, label, variant in _of(shape(name)):
            key = (kernel, variant.types, variant.warps, tuple(variant.constants.items()))
            found.setdefault(key, (kernel, f"{name} {label}".strip(), variant))
    return list(found.values())


def _of(spec: ModelSpec) -> Iterator[tuple[str, str, Variant]]:
    mixers, ffns = {layer.mixer for layer in spec.layers}, {layer.ffn for layer in spec.layers}
    for out, has_residual in product(("*fp32", "*bf16", "*fp8e4nv"), (False, True)):
        yield "norm", f"{'residual ' if has_residual else ''}{out[1:]}", norm.variant(spec.hidden, has_residual, out=out)
    for out in ("*fp32", "*bf16"):  # bf16 is what linear layers read
        for ffn in ffns:
            yield "gated", out[1:], gated.variant(ffn.width, out=out)
        for mixer, kind in product(mixers, CACHES.values()):
            for form, _ in attention.shipped(kind):
                merge = attention.merge_variant(mixer.heads, mixer.head_dim, form, out=out)
                yield "attention_merge", f"{out[1:]} segments of {form.segment}", merge
    for label, kind in TABLES.items():
        yield "embed", f"table {label}", embed.variant(spec.hidden, kind)
    for label, kind in CACHES.items():
        for mixer in mixers:
            heads, kv_heads, head_dim = mixer.heads, mixer.kv_heads, mixer.head_dim
            yield "rope_write", f"kv {label}", rope.variant(heads, kv_heads, head_dim, kind)
            for form, way in attention.shipped(kind):
                made = attention.variant(heads, kv_heads, head_dim, kind, form, **attention.WAYS[way], out="*bf16")
                yield "attention", f"kv {label} rows {form.query_rows} {way}", made
            yield "move", f"kv {label}", move.variant(kv_heads, head_dim, kind)
    for step, variant in sample.variants(spec.vocab).items():
        yield f"sample_{step}", "", variant
    yield "logprobs", "", logprobs.variant(spec.vocab)
    yield from plain.variants()


def products(names: Iterable[str], formats: Iterable[str]) -> list[tuple[str, str, Variant]]:
    """(kernel, form, variant) of the linear layers of the named shapes in whole-number formats, for every number of rows."""
    found: dict[tuple, tuple[str, str, Variant]] = {}
    for name, format in ((name, format) for name in names for format in formats):
        for layer, (n, k) in layers(shape(name)).items():
            for kind, make in PACKED[format]:
                for kernel, label, variant in whole.variants(make(n, k)):
                    key = (kernel, variant.types, variant.warps, variant.stages, tuple(variant.constants.items()))
                    found.setdefault(key, (kernel, " ".join(filter(None, (name, layer, format, kind, label))), variant))
                if layer == "head" and LINEAR_FORMATS[format]["scale"][1]:  # it may be the embedding's table, too
                    gather = packed.gather_variant(make(n, k))
                    found["gather", name, format, kind] = ("packed_gather", f"{name} {format} {kind}".strip(), gather)
    return list(found.values())


def fixed(names: Iterable[str]) -> list[tuple[str, str, Variant]]:
    """(kernel, form, variant) of the linear layers of the named shapes in bf16 and fp32 in deterministic settings."""
    found = {}
    for name, (kind, tiles) in product(names, (("*bf16", [tile for _, tile in gemm.BY_ROWS]), ("*fp32", [gemm.TILE_FP32]))):
        for (layer, (n, k)), tile in product(layers(shape(name)).items(), tiles):
            segments = gemm.segments_of(n, k, tile)[0]
            for parts in (False, True)[: min(segments, 2)]:
                label = f"{name} {layer} {kind[1:]} rows {tile.m}{' in parts' if parts else ''}"
                found[n, k, tile, parts] = ("fixed", label, gemm.variant(n, k, "*fp32", parts, tile, kind))
            if segments > 1:
                found[segments] = ("fixed_merge", f"{segments} parts", gemm.merge_variant(segments, "*fp32"))
    return list(found.values())


def ends(names: Iterable[str], formats: Iterable[str]) -> Iterator[tuple[str, str, Variant]]:
    """(kernel, form, variant) of the products with ends, for as many rows as fused.py lets them: of bf16, fp8 and `formats`."""
    for end, ending in ENDINGS.items():
        most = min(MOST[fusion] for fusion in ("gate", "norm") if getattr(ending, fusion))
        found = list(plain.variants(ending, most))
        if not ending.norm:
            found += [("bulk", f"fp8 rows {form.rows}", bulk.variant(False, form, True, ending)) for form in few_codes()]
        for name, format in product(names, formats):
            for kind, make in PACKED[format]:
                made = whole.variants(make(*layers(shape(name))["o" if ending.norm == "begins" else "gate_up"]), ending, most)
                found += [(kernel, f"{name} {format} {kind} {label}", variant) for kernel, label, variant in made]
        yield from ((kernel, f"{form}, {end}", variant) for kernel, form, variant in found)


def few_codes() -> list[bulk.Bulk]:
    """The forms of few rows of weights in e4m3."""
    return [way for _, way in fp8.CODES.now if isinstance(way, bulk.Bulk)]


def layers(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the linear layers of a shape, as the model fuses them; of its first layer, and the head."""
    mixer, ffn = spec.layers[0].mixer, spec.layers[0].ffn
    return {
        "qkv": ((mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim, spec.hidden),
        "o": (spec.hidden, mixer.heads * mixer.head_dim),
        "gate_up": (2 * ffn.width, spec.hidden),
        "down": (spec.hidden, ffn.width),
        "head": (spec.vocab, spec.hidden),
    }


def families() -> Iterator[tuple[str, str, Variant]]:
    """(kernel, form, variant) of what only some families use, at measures of real ones, and of products in e4m3."""
    yield from _attentions()
    for op in ("gelu", "gelu_tanh", "add", "scale", "softcap", "gate_rows", "spread"):
        yield op, "", elementwise.variant(op)
    for reads in (False, True):
        yield "lay_out", "with tokens" if reads else "", rounds.layout_variant(8, reads)
    yield "walk", "", rounds.walk_variant(8)
    for out, has_residual in product(("*fp32", "*bf16", "*fp8e4nv"), (False, True)):
        label = f"{'residual ' if has_residual else ''}{out[1:]}"
        yield "layer_norm", label, norm.variant(8192, has_residual, centred=True, out=out)
    for out in ("*fp32", "*bf16"):
        for activation in ("gelu", "gelu_tanh"):
            yield f"gated_{activation}", out[1:], gated.variant(14336, activation, out)
        yield "gated_clamped", out[1:], gated.clamped_variant(2880, out)
    for size in (64, 128, 256, 5120):
        yield "norm_slices", f"of {size}", norm.parts_variant(size)
    yield from _coded()
    for label, router in ROUTERS.items():
        yield "route", label, experts.route_variant(router, router.correction)
    yield "add_rows", "", experts.add_variant()
    yield "experts_members", "", mixture.members_variant()
    tiles = tuple(dict.fromkeys((*(tile for _, tile in mixture.FAST.now), mixture.MANY)))
    kinds = (("*fp32", (mixture.TILE_FP32,)), ("*bf16", tiles), (mixture.CODES, tiles))
    for label, (hidden, width, count, chosen, activation, has_bias) in MIXTURES.items():
        for kind, tile in ((kind, tile) for kind, tiles in kinds for tile in tiles):
            gate_up = mixture.variant(count, width, hidden, kind, tile, activation=activation, per_row=chosen, has_bias=has_bias)
            yield "experts_product", f"{label} {kind[1:]} gate_up rows {tile.m}", gate_up
            down = mixture.variant(count, hidden, width, kind, tile, has_bias=has_bias)
            yield "experts_product", f"{label} {kind[1:]} down rows {tile.m}", down
        yield "experts_sum", label, mixture.sum_variant(hidden, chosen)


def _attentions() -> Iterator[tuple[str, str, Variant]]:
    """Attention with windows, soft caps and sinks: every form once, in the way that the most rows of it take."""
    yield "attention_merge", "sinks", attention.merge_variant(64, 64, has_sinks=True)
    for label, kind in CACHES.items():
        ways = dict(attention.shipped(kind))  # the last way of each form
        for form, way in ways.items():
            facts, said = attention.WAYS[way] | {"out": "*bf16"}, f"kv {label} rows {form.query_rows} {way}"
            yield "attention_window", f"mistral {said}", attention.variant(32, 8, 128, kind, form, **facts, has_window=True)
            yield "attention_softcap", f"gemma-2 {said}", attention.variant(16, 8, 256, kind, form, **facts, has_window=True, has_cap=True)
            yield "attention_sinks", f"gpt-oss {said}", attention.variant(64, 8, 64, kind, form, **facts, has_window=True, has_sinks=True)


def _coded() -> Iterator[tuple[str, str, Variant]]:
    """Products of e4m3 activations, and what quantises them."""
    for (_, tile), (n, parts), (label, by_block) in product(fp8.BY_ROWS, ((28672, False), (4096, True)), (("", False), ("blocks ", True))):
        yield "fp8", f"{label}rows {tile.m}{' in parts' if parts else ''}", fp8.variant(n, 4096, by_block, parts, tile=tile)
    for form in few_codes():
        yield "bulk", f"fp8 rows {form.rows}", bulk.variant(False, form, narrow=True)
    yield "fp8", "a scale per row and group", fp8.variant(4096, 4096, True, False, shared=1)
    for (label, by_block), x in product((("rows", False), ("blocks", True)), TABLES.values()):
        yield "fp8_quantise", f"{label} {x[1:]}", fp8.quantise_variant(14336, by_block, x)
    for has_bias in (False, True):
        yield "fp8_scaled", "bias" if has_bias else "", fp8.scaled_variant(28672, 4096, has_bias)
    for (format, label), (most, tile) in product((("int4", "groups of 32"), ("int4_zero", "zeros, groups of 128")), packed.BY_ROWS):
        narrow = packed.variants(PACKED[format][-1][1](4096, 4096), most, False, narrow=True)
        for kernel, made in zip(("coded", "packed_merge"), narrow, strict=False):
            yield kernel, f"{label} rows {tile.m}", made


def candidates() -> Iterator[tuple[str, str, Variant]]:
    """(kernel, form, variant), one of each, of kernels that no table names before a device has timed them."""
    form = attention.Form(16, 64, 4, 2, 1056, group_rows=64, few_rows=64)
    yield "attention_together", "kv bf16", attention.together_variant(32, 8, 128, "*bf16", form)
    yield "attention_mixed", "kv bf16", attention.mixed_variant(32, 8, 128, "*bf16", form)
    for tried, way in ((attention.Form(16, 32, 2, 3, base="none"), "by row"), (attention.Form(64, 128, 8, 2, base="none"), "by tile")):
        made = attention.variant(32, 8, 128, "*bf16", tried, **attention.WAYS[way], out="*bf16")
        yield "attention", f"kv bf16 rows {tried.query_rows} {way} without a maximum", made
    yield "attention_merge", "few", attention.merge_variant(32, 128, form, some=True)
    yield "gated_pairs", "", gated.variant(14336, out="*bf16", apart=SIDE)
    yield "packed_carry", "", carried.variant(PACKED["int4"][0][1](4096, 4096), False, carried.Carried(8))


def shipped(name: str) -> list[tuple[str, str, Variant]]:
    """(kernel, form, variant) of everything that serves a model of this shape in any format, or another family."""
    return [*forms([name]), *products([name], PACKED), *fixed([name]), *families()]


def compiled(variant: Variant):
    """The form as Triton compiles it for a launch with aligned tensors; its cache then holds what that launch asks for."""
    kernel = variant.kernel
    if not isinstance(kernel, triton.JITFunction):
        raise BackendError("kernels are interpreted in this process; unset TRITON_INTERPRET to compile them")
    free = [param for param in kernel.params if param.name not in variant.constants]
    signature = {param.name: "constexpr" for param in kernel.params} | {
        param.name: kind for param, kind in zip(free, variant.types, strict=True)
    }
    known = {}  # of arguments: what a launch tells the compiler, nothing where it looks and finds nothing
    for param in kernel.params:
        if signature[param.name].startswith("*"):
            known[(param.num,)] = [] if param.do_not_specialize_on_alignment else [["tt.divisibility", 16]]
        elif isinstance(variant.constants.get(param.name), str):
            known[(param.num,)] = []
    source = GluonASTSource if kernel.is_gluon() else ASTSource
    return triton.compile(source(kernel, signature, variant.constants, known), target=TARGET, options=variant.options)


def measure(kernel: str, form: str, variant: Variant) -> Resources:
    """Compiles one form and reads what it takes from the machine code."""
    begin = time.perf_counter()
    binary = compiled(variant)
    seconds = time.perf_counter() - begin
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    usage = {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", report)}
    return Resources(
        kernel=kernel,
        form=form,
        warps=variant.warps,
        registers=usage["REG"],
        shared=max(usage["SHARED"], binary.metadata.shared),
        spills=usage["STACK"] + usage["LOCAL"],
        waits=binary.asm["ptx"].count("griddepcontrol.wait") == 1,
        wgmma=binary.asm["ptx"].count("wgmma.mma_async"),
        mma=len(re.findall(r"\bmma\.sync", binary.asm["ptx"])),
        seconds=round(seconds, 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiles the Triton kernels to sm_90 and prints what they take.")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="named model shapes")
    parser.add_argument("--formats", nargs="+", default=(), choices=PACKED, help="also the linear layers of the shapes in these formats")
    parser.add_argument("--families", action="store_true", help="also what only some families use")
    parser.add_argument("--fixed", action="store_true", help="also the linear layers of deterministic settings in bf16 and fp32")
    parser.add_argument("--ends", nargs="+", default=(), choices=PACKED, help="also products that gate or norm, in these formats")
    parser.add_argument("--kernels", nargs="+", help="only kernels whose name begins with one of these")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    wanted = [*forms(arguments.shapes), *products(arguments.shapes, arguments.formats), *(families() if arguments.families else ())]
    wanted += fixed(arguments.shapes) if arguments.fixed else ()
    wanted += ends(arguments.shapes, arguments.ends) if arguments.ends else ()
    for kernel, form, variant in wanted:
        if arguments.kernels and not kernel.startswith(tuple(arguments.kernels)):
            continue
        found = measure(kernel, form, variant)
        if arguments.json:
            print(json.dumps(asdict(found)), flush=True)
        else:
            print(
                f"{kernel:18} {form:26} warps {found.warps:2}  registers {found.registers:3}  shared {found.shared:6}"
                f"  spills {found.spills:3}  wgmma {found.wgmma:3}  mma {found.mma:3}  {found.seconds:5.1f} s", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
