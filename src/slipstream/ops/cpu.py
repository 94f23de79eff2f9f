"""Candidate "cpu": the C++ kernels of slipstream._native, checked and called with addresses.

Owns the checks of type, shape and layout before an address leaves Python. Must not know the arithmetic (csrc/, docs/numerics.md).
Four ops of the mixture-of-experts families have no C++ kernel; the reference's functions serve them, with the same bits.
Every function writes into tensors of the caller; arguments are described in ops/types.py and ops/reference.py. A tensor that does not
fit raises InputError naming it; an index out of range raises IndexError from the kernel.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.ops import reference
from slipstream.ops.types import KV, AttentionRows, Declined, SampleRows

NAME = "cpu"
VERSION = 1
_native = native.module
PROFILE = f"cpu-{_native.isa()}.{VERSION}" if _native else ""  # every instruction set gives the same bits; the name tells the speed

_FLOATS = (torch.float32, torch.bfloat16)


def _fits(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """The address of a contiguous CPU tensor of this type and shape."""
    if tensor.shape == shape and tensor.dtype is dtype and tensor.is_cpu and tensor.is_contiguous():
        return tensor.data_ptr()
    layout = "" if tensor.is_contiguous() else ", not contiguous"
    found = f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}{layout}"
    raise InputError(f"{op}: {name} must be a contiguous CPU tensor {list(shape)} of {dtype}; found {found}")


def _float_type(op: str, name: str, tensor: Tensor) -> torch.dtype:
    if tensor.dtype not in _FLOATS:
        raise InputError(f"{op}: {name} must be fp32 or bf16; found {tensor.dtype}")
    return tensor.dtype


def _cache(op: str, kv: KV) -> tuple[int, int, bool, int, int, int, int]:
    if kv.keys.dim() != 4:
        raise InputError(f"{op}: kv.keys must be [pages, kv_heads, page_size, head_dim]; found {list(kv.keys.shape)}")
    shape = tuple(kv.keys.shape)
    dtype = _float_type(op, "kv.keys", kv.keys)
    return _fits(op, "kv.keys", kv.keys, shape, dtype), _fits(op, "kv.values", kv.values, shape, dtype), dtype is torch.bfloat16, *shape


def _integers(op: str, name: str, tensor: Tensor, n: int) -> int:
    return _fits(op, name, tensor, (n,), torch.int32)


def embed(ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out [rows, hidden] = table [vocab, hidden] at ids [rows]."""
    rows, (vocab, hidden) = ids.shape[0], table.shape
    dtype = _float_type("embed", "table", table)
    _native.embed(
        _integers("embed", "ids", ids, rows), _fits("embed", "table", table, (vocab, hidden), dtype), dtype is torch.bfloat16,
        _fits("embed", "out", out, (rows, hidden)), rows, vocab, hidden,
    )  # fmt: skip


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = RMSNorm(x) * weight (Zhang and Sennrich 2019); with a residual, x += residual in place first."""
    rows, hidden = x.shape
    added = 0 if residual is None else _fits("norm", "residual", residual, (rows, hidden))
    _native.norm(
        _fits("norm", "x", x, (rows, hidden)), added, _fits("norm", "weight", weight, (hidden,)), eps,
        _fits("norm", "out", out, (rows, hidden)), rows, hidden,
    )  # fmt: skip


def rope_write(qkv: Tensor, positions: Tensor, slots: Tensor, table: Tensor, kv: KV, heads: int) -> None:
    """Rotates q and k in place in qkv (Su et al. 2021) and writes k and v to the cache at `slots`."""
    cache = _cache("rope_write", kv)
    kv_heads, head_dim = cache[4], cache[6]
    rows, max_len = qkv.shape[0], table.shape[0]
    if head_dim % 2:
        raise InputError(f"rope_write: head_dim={head_dim} must be even")
    _native.rope_write(
        _fits("rope_write", "qkv", qkv, (rows, (heads + 2 * kv_heads) * head_dim)), _integers("rope_write", "positions", positions, rows),
        _integers("rope_write", "slots", slots, rows), _fits("rope_write", "table", table, (max_len, 2, head_dim // 2)),
        rows, heads, max_len, *cache,
    )  # fmt: skip


def attention(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> None:
    """out [rows, heads * head_dim] = softmax(scale * q k^T) v over the keys that `rows` names, `window` of them at most (0: all)."""
    _native.attention(*_attention(qkv, kv, rows, heads, scale, window, out))


def attention_softcap(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float
) -> None:
    """`attention` with scores s bounded to cap * tanh(s / cap); cap > 0."""
    if not cap > 0:
        raise InputError(f"attention_softcap: cap={cap} must be above 0")
    _native.attention_softcap(*_attention(qkv, kv, rows, heads, scale, window, out), cap)


def attention_sinks(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, sinks: Tensor
) -> None:
    """`attention` where each head's softmax has one more score, sinks [heads], that has no value."""
    _native.attention_sinks(
        *_attention(qkv, kv, rows, heads, scale, window, out), _fits("attention_sinks", "sinks", sinks, (heads,))
    )


def _attention(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> tuple:
    cache = _cache("attention", kv)
    head_dim = cache[6]
    count, width = qkv.shape
    if not scale > 0 or window < 0 or width < heads * head_dim:
        needed = f"scale > 0, window >= 0, width >= {heads * head_dim}"
        raise InputError(f"attention: scale={scale}, window={window}, qkv width={width}: must be {needed}")
    requests, max_pages = rows.page_table.shape
    tails = rows.tail_slots.shape[0]
    return (
        _fits("attention", "qkv", qkv, (count, width)), _fits("attention", "out", out, (count, heads * head_dim)),
        count, heads, width, scale, window, *cache,
        _integers("attention", "request", rows.request, count), _integers("attention", "positions", rows.positions, count),
        _integers("attention", "linear", rows.linear, count), _integers("attention", "tail_start", rows.tail_start, count + 1),
        _integers("attention", "tail_slots", rows.tail_slots, tails), tails,
        _fits("attention", "page_table", rows.page_table, (requests, max_pages), torch.int32), requests, max_pages,
    )  # fmt: skip


def gated(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = silu(gate) * up, gate_up [rows, 2 f], gate first."""
    rows, width = out.shape
    _native.gated(_fits("gated", "gate_up", gate_up, (rows, 2 * width)), _fits("gated", "out", out, (rows, width)), rows, width)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = LayerNorm(x) * weight + bias (Ba et al. 2016); with a residual, x += residual in place first."""
    rows, hidden = x.shape
    added = 0 if residual is None else _fits("layer_norm", "residual", residual, (rows, hidden))
    _native.layer_norm(
        _fits("layer_norm", "x", x, (rows, hidden)), added, _fits("layer_norm", "weight", weight, (hidden,)),
        _fits("layer_norm", "bias", bias, (hidden,)), eps, _fits("layer_norm", "out", out, (rows, hidden)), rows, hidden,
    )  # fmt: skip


def norm_slices(x: Tensor, weight: Tensor, start: int, size: int, eps: float) -> None:
    """RMSNorm of columns start .. start + len(weight) of x [rows, any], every `size` of them by themselves, in place."""
    (rows, width), columns = x.shape, weight.shape[0]
    if size < 1 or columns % size or not 0 <= start <= width - columns:
        raise InputError(f"norm_slices: {columns} columns from {start} on in slices of {size} do not fit x of {width} columns")
    _native.norm_slices(
        _fits("norm_slices", "x", x, (rows, width)), _fits("norm_slices", "weight", weight, (columns,)), start, size, columns // size, eps,
        rows, width,
    )  # fmt: skip


def gated_gelu(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu(gate) * up, gate_up [rows, 2 f], gate first."""
    (rows, width), op = out.shape, "gated_gelu"
    _native.gated_gelu(_fits(op, "gate_up", gate_up, (rows, 2 * width)), _fits(op, "out", out, (rows, width)), rows, width)


def gated_gelu_tanh(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu_tanh(gate) * up, gate_up [rows, 2 f], gate first."""
    (rows, width), op = out.shape, "gated_gelu_tanh"
    _native.gated_gelu_tanh(_fits(op, "gate_up", gate_up, (rows, 2 * width)), _fits(op, "out", out, (rows, width)), rows, width)


def gelu(x: Tensor) -> None:
    """x [rows, f] / 2 * (1 + erf(x / sqrt(2))), in place."""
    _native.gelu(_fits("gelu", "x", x, tuple(x.shape)), *x.shape)


def gelu_tanh(x: Tensor) -> None:
    """The tanh form of gelu (Hendrycks and Gimpel 2016) of x [rows, f], in place."""
    _native.gelu_tanh(_fits("gelu_tanh", "x", x, tuple(x.shape)), *x.shape)


def add(x: Tensor, y: Tensor) -> None:
    """x += y, both [rows, f]."""
    shape = tuple(x.shape)
    _native.add(_fits("add", "x", x, shape), _fits("add", "y", y, shape), *shape)


def scale(x: Tensor, factor: float) -> None:
    """x [rows, f] *= factor."""
    _native.scale(_fits("scale", "x", x, tuple(x.shape)), factor, *x.shape)


def softcap(x: Tensor, cap: float) -> None:
    """x [rows, f] = cap * tanh(x / cap), in place; cap > 0."""
    if not cap > 0:
        raise InputError(f"softcap: cap={cap} must be above 0")
    _native.softcap(_fits("softcap", "x", x, tuple(x.shape)), cap, *x.shape)


def sample(logits: Tensor, rows: SampleRows, out: Tensor) -> None:
    """out [rows] int32: one token id per row of logits [rows, vocab]; a NaN logit counts as -inf, a row of -inf yields 0."""
    count, vocab = logits.shape
    _native.sample(
        _fits("sample", "logits", logits, (count, vocab)), count, vocab,
        _fits("sample", "temperature", rows.temperature, (count,)), _integers("sample", "top_k", rows.top_k, count),
        _fits("sample", "top_p", rows.top_p, (count,)), _fits("sample", "min_p", rows.min_p, (count,)),
        _fits("sample", "seed", rows.seed, (count,), torch.int64), _integers("sample", "position", rows.position, count),
        _integers("sample", "sample", rows.sample, count), _integers("sample", "out", out, count),
    )  # fmt: skip


def logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability and rank of tokens [rows], and the `top` likeliest ids.

    Returns:
        (logprob [rows], rank [rows], top ids [rows, top], their logprobs [rows, top]); ranks and ids are int32.
    """
    count, vocab = logits.shape
    value, rank = torch.empty(count), torch.empty(count, dtype=torch.int32)
    ids, values = torch.empty(count, top, dtype=torch.int32), torch.empty(count, top)
    _native.logprobs(
        _fits("logprobs", "logits", logits, (count, vocab)), count, vocab, _integers("logprobs", "tokens", tokens, count), top,
        value.data_ptr(), rank.data_ptr(), ids.data_ptr(), values.data_ptr(),
    )  # fmt: skip
    return value, rank, ids, values


def move(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies token slots source[i] -> target[i] in all layers, one pair after the other.

    Args:
        pool: [layers, 2, pages, kv_heads, page_size, head_dim], any type.
        source, target: slots. [n] int32
    """
    if pool.dim() != 6 or pool.shape[1] != 2:
        raise InputError(f"move: pool must be [layers, 2, pages, kv_heads, page_size, head_dim]; found {list(pool.shape)}")
    layers, _, pages, kv_heads, page_size, head_dim = pool.shape
    count = source.shape[0]
    _native.move(
        _fits("move", "pool", pool, tuple(pool.shape), pool.dtype), layers, pages, kv_heads, page_size, head_dim * pool.element_size(),
        _integers("move", "source", source, count), _integers("move", "target", target, count), count,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight in panels of 32 outputs (docs/numerics.md, "Packing").

    Attributes:
        panels: the bytes, in the kernel's layout.
        scale: one per output, int8 only. [n]
        n, k: outputs, inputs.
    """

    panels: Tensor
    scale: Tensor | None
    n: int
    k: int


_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class Linear:
    """out = x @ weight.T + bias for one weight format."""

    def __init__(self, format: str):
        self.name = f"cpu_{format}"
        self._format = format
        self._run = getattr(_native, f"linear_{format}")

    def prepare(self, stored: dict[str, Tensor]) -> Packed:
        """Packs {"weight": [n, k]} (int8: and {"scale": fp32 [n]}) once; the result holds a copy."""
        wanted = {"weight", "scale"} if self._format == "int8" else {"weight"}
        if set(stored) != wanted or stored["weight"].dim() != 2:
            found = {name: list(tensor.shape) for name, tensor in stored.items()}
            raise InputError(f"{self.name}: needs exactly the tensors {sorted(wanted)}, weight as [n, k]; found {found}")
        n, k = stored["weight"].shape
        source = _fits(self.name, "weight", stored["weight"], (n, k), _STORED[self._format])
        scale = stored.get("scale")
        if scale is not None:
            _fits(self.name, "scale", scale, (n,))
        panels = torch.empty(_native.packed_bytes(self._format, n, k), dtype=torch.uint8)
        _native.pack(self._format, source, panels.data_ptr(), n, k)
        return Packed(panels, scale, n, k)

    def run(self, x: Tensor, prepared: Packed, bias: Tensor | None, out: Tensor) -> None:
        """Writes out [rows, n] from x [rows, k] and bias [n] or None."""
        rows, n, k = x.shape[0], prepared.n, prepared.k
        self._run(
            _fits(self.name, "x", x, (rows, k)), prepared.panels.data_ptr(), 0 if prepared.scale is None else prepared.scale.data_ptr(),
            0 if bias is None else _fits(self.name, "bias", bias, (n,)), _fits(self.name, "out", out, (rows, n)), rows, n, k,
        )  # fmt: skip


_OPS = {
    function.__name__: function
    for function in (
        *(embed, norm, rope_write, attention, gated, sample, logprobs, move),
        *(layer_norm, norm_slices, attention_softcap, attention_sinks, gated_gelu, gated_gelu_tanh, gelu, gelu_tanh, add, scale, softcap),
    )
}

# few numbers per row, or one pass of correctly rounded operations: the same function as the reference's, the same bits
_OPS |= {name: getattr(reference, name) for name in ("route", "add_rows", "gate_rows", "gated_clamped")}


def offer(op: str, device: str) -> Any:
    """The callable (linear ops: the LinearKernel) that serves `op` on `device`, or Declined with the reason."""
    if device != "cpu":
        return Declined(f"runs on cpu, not on {device}")
    if _native is None:
        return Declined(f"no native module: {native.reason}")
    if op in _OPS:
        return _OPS[op]
    format = op.removeprefix("linear_")
    return Linear(format) if op.startswith("linear_") and format in _STORED else Declined(f"has no kernel for {op}")
