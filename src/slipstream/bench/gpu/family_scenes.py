"""Inputs for the ops that some families need, as scenes.py has them for the others. Owns the scenes; knows the op contract only."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from slipstream.arch import RouterSpec
from slipstream.bench.gpu import scenes
from slipstream.bench.gpu.scenes import Scene, noise
from slipstream.bench.gpu.shapes import Heads
from slipstream.ops.types import Activation

IN_PLACE = {"gelu": (), "gelu_tanh": (), "scale": (1.7,), "softcap": (30.0,)}
GATES = {"gated_gelu": (), "gated_gelu_tanh": (), "gated_clamped": (7.0, 1.702)}


def layer_norm(rows: int, hidden: int) -> Scene:
    def run(kernels, t, index):
        x, out = t["x"][index], torch.full((len(index), hidden), torch.nan, device=index.device)
        kernels.layer_norm(x, t["weight"], t["bias"], 1e-5, out, t["residual"][index])
        return [x, out]

    tensors = {name: noise(rows, hidden, seed=seed) for seed, name in enumerate(("x", "residual"))}
    tensors |= {name: noise(hidden, seed=seed) for seed, name in ((2, "weight"), (3, "bias"))}
    return Scene("layer_norm", str(hidden), rows, tensors, run, bytes=16 * hidden)


def norm_slices(rows: int, heads: Heads) -> Scene:
    """The q and k norms of a model, head by head."""
    normed = (heads.heads + heads.kv_heads) * heads.head_dim

    def run(kernels, t, index):
        x = t["x"][index]
        kernels.norm_slices(x, t["weight"], 0, heads.head_dim, 1e-6)
        return [x]

    tensors = {"x": noise(rows, heads.width, seed=1), "weight": noise(normed, seed=2)}
    return Scene("norm_slices", f"{heads.heads}+{heads.kv_heads}x{heads.head_dim}", rows, tensors, run, bytes=8 * normed)


def in_place(op: str, rows: int, width: int) -> Scene:
    """gelu, gelu_tanh, scale or softcap."""

    def run(kernels, t, index):
        x = t["x"][index]
        getattr(kernels, op)(x, *IN_PLACE[op])
        return [x]

    return Scene(op, str(width), rows, {"x": noise(rows, width, seed=1) * 4}, run, bytes=8 * width)


def pairs(op: str, rows: int, width: int) -> Scene:
    """add or gate_rows."""

    def run(kernels, t, index):
        x = t["x"][index]
        getattr(kernels, op)(x, t["other"][index])
        return [x]

    tensors = {"x": noise(rows, width, seed=1), "other": noise(rows, width if op == "add" else 1, seed=2)}
    return Scene(op, str(width), rows, tensors, run, bytes=(12 if op == "add" else 8) * width)


def spread(rows: int, count: int) -> Scene:
    """Logits of some tokens among four times as many."""

    def run(kernels, t, index):
        out = torch.full((len(index), 4 * count), torch.nan, device=index.device)
        kernels.spread(t["some"][index], t["places"], out)
        return [out]

    at = torch.arange(4 * count)
    tensors = {"some": noise(rows, count, seed=1), "places": torch.where(at % 4 == 2, at // 4, -1).int()}
    return Scene("spread", str(count), rows, tensors, run, scenes.EXACT, bytes=20 * count)


def gate(op: str, rows: int, width: int) -> Scene:
    """gated_gelu, gated_gelu_tanh or gated_clamped."""

    def run(kernels, t, index):
        out = torch.full((len(index), width), torch.nan, device=index.device)
        getattr(kernels, op)(t["gate_up"][index], out, *GATES[op])
        return [out]

    return Scene(op, str(width), rows, {"gate_up": noise(rows, 2 * width, seed=1) * 4}, run, bytes=12 * width)


def route(rows: int, router: RouterSpec) -> Scene:
    def run(kernels, t, index):
        numbers = torch.full((len(index), router.chosen), -1, dtype=torch.int32, device=index.device)
        shares = torch.full((len(index), router.chosen), torch.nan, device=index.device)
        kernels.route(t["logits"][index], t["correction"] if router.correction else None, router, numbers, shares)
        return [numbers, shares]

    tensors = {"logits": noise(rows, router.experts, seed=1) * 2, "correction": noise(router.experts, seed=2) / 10}
    return Scene("route", f"{router.chosen} of {router.experts} {router.scoring}", rows, tensors, run, agree=0.98)


def routed(rows: int, hidden: int) -> Scene:
    """Three experts that multiply by 2, 3 and 5; a row goes to two of them."""
    layers = [partial(_times, factor) for factor in (2.0, 3.0, 5.0)]

    def run(kernels, t, index):
        out, buffers = torch.full((len(index), hidden), torch.nan, device=index.device), [torch.empty_like(t["x"][index]) for _ in range(2)]
        kernels.routed(t["x"][index], t["experts"][index], t["shares"][index], layers, *buffers, out)
        return [out]

    chosen = torch.tensor([[0, 1], [0, 2], [1, 2]], dtype=torch.int32)[torch.arange(rows) % 3]
    tensors = {"x": noise(rows, hidden, seed=1), "experts": chosen, "shares": noise(rows, 2, seed=3)}
    return Scene("routed", str(hidden), rows, tensors, run, scenes.EXACT, bytes=48 * hidden)


def experts(rows: int, hidden: int, width: int) -> Scene:
    """Six gated experts in bf16 at once, two of them for a row; where nobody computes them at once, one after the other."""
    count = 6

    def run(kernels, t, index):
        x, out = t["x"][index], torch.full((len(index), hidden), torch.nan, device=index.device)
        kernel, facts = kernels.experts("bf16"), (t["experts"][index], t["shares"][index])
        if kernel is not None:
            kernel.run(x, *facts, kernel.prepare({"weight": t["gate_up"]}, {"weight": t["down"]}), Activation("silu"), out)
            return [out]
        layers = [partial(_gated, kernels, t["gate_up"][number], t["down"][number]) for number in range(count)]
        kernels.routed(x, *facts, layers, *(torch.empty_like(x) for _ in range(2)), out)
        return [out]

    tensors = {
        "x": noise(rows, hidden, seed=1), "shares": noise(rows, 2, seed=2).abs(),
        "experts": noise(rows, count - 1, seed=3).topk(2).indices.sort().values.int(),  # the last one has no rows
        "gate_up": (noise(count, 2 * width, hidden, seed=4) / hidden**0.5).bfloat16(),
        "down": (noise(count, hidden, width, seed=5) / width**0.5).bfloat16(),
    }  # fmt: skip
    return Scene("experts", f"{hidden} {width}", rows, tensors, run, 1e-2)


def _gated(kernels, gate_up: Tensor, down: Tensor, x: Tensor, out: Tensor) -> None:
    linear, both, inner = kernels.linear("bf16"), torch.empty(len(x), len(gate_up)), torch.empty(len(x), len(gate_up) // 2)
    linear.run(x, linear.prepare({"weight": gate_up}), None, both)
    kernels.gated(both, inner)
    linear.run(inner, linear.prepare({"weight": down}), None, out)


def _times(factor: float, x: Tensor, out: Tensor) -> None:
    torch.mul(x, factor, out=out)


def attention(op: str, rows: int, heads: Heads, dtype: torch.dtype, context: int, **more: int) -> Scene:
    """attention_softcap or attention_sinks: the scene of plain attention, asked of the other op."""
    plain = scenes.attention(rows, heads, dtype, context, **more)
    extra = noise(heads.heads, seed=9) if op == "attention_sinks" else torch.tensor(30.0)

    class Asked:
        """Kernels whose attention is the op."""

        def __init__(self, kernels, value: Tensor):
            self._op: Callable = getattr(kernels, op)
            self._more = value if op == "attention_sinks" else float(value)

        def attention(self, *arguments):
            self._op(*arguments, self._more)

    def run(kernels, t, index):
        return plain.run(Asked(kernels, t["extra"]), t, index)

    return Scene(op, plain.label, rows, plain.tensors | {"extra": extra}, run, plain.tolerance)


def all_of(few: int, hidden: int, heads: Heads, dtype: torch.dtype, context: int, tree: int = 3) -> list[tuple[str, Callable[[], Scene]]]:
    """(label, how to make it) of every one, `few` rows each."""
    routers = (RouterSpec(8, 2), RouterSpec(16, 4, "sigmoid", groups=4, kept=2, group_best=2, scale=2.5, correction=True))
    return [
        ("layer_norm", lambda: layer_norm(few, hidden)),
        ("norm_slices", lambda: norm_slices(few, heads)),
        *((op, lambda op=op: in_place(op, few, hidden)) for op in IN_PLACE),
        *((op, lambda op=op: pairs(op, few, hidden)) for op in ("add", "gate_rows")),
        ("spread", lambda: spread(few, hidden)),
        *((op, lambda op=op: gate(op, few, hidden)) for op in GATES),
        *((f"route {router.scoring}", lambda router=router: route(few, router)) for router in routers),
        ("routed", lambda: routed(few, hidden)),
        ("experts", lambda: experts(few, hidden, hidden // 2)),
        *((op, lambda op=op: attention(op, few, heads, dtype, context, tree=tree)) for op in ("attention_softcap", "attention_sinks")),
    ]
