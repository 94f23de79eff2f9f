"""The reference candidate: every op in torch. Serves where no native module is, and is the oracle in tests.

Owns its arithmetic, a profile of its own with the structure of docs/numerics.md. Must not know other candidates.

The value of a row may depend neither on its neighbours nor on the number of threads, but torch picks algorithms by
shape, and by the thread that meets an element. So only this is used here:
  * +, -, *, /, sqrt, max, rint and comparisons: exactly rounded, the same for every shape;
  * `exp` and `log` built from those, because torch's differ between the vector body and the scalar tail of a tensor;
  * sums as the last element of `cumsum`, which runs in order (`sum` cuts a long row by the number of threads);
  * matrix products only in shapes that no neighbour can change: blocks of 16 rows, or one row of attention by itself,
    on one thread and on freshly allocated inputs, because products also depend on threads and on alignment.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.arch import RouterSpec
from slipstream.base.errors import InputError
from slipstream.ops.types import INT8_BLOCK, KV, SEGMENT, AttentionRows, Declined, LinearKernel, Op, SampleRows

NAME = "reference"
VERSION = 1
PROFILE = f"{NAME}.{VERSION}"
BLOCK = 16  # rows of a matrix product; the last block is padded with zeros
PANEL = 1024  # weight rows widened to fp32 at a time, so that scratch stays small
ALIGNMENT = 64  # bytes; what torch's own allocations have
WORD = 0xFFFFFFFF
ERF_TAIL = (  # P of docs/numerics.md, `gelu`, lowest power first
    *(0.098741888999939, 0.0985691770911217, 0.0939511805772781, 0.0755931213498116, 0.0730211585760117),
    *(0.0435089953243732, -0.013852051459252834, 0.09072981029748917, -0.07946369796991348, 0.01920042559504509),
)
LOG2E, LN2 = math.log2(math.e), math.log(2)
THREAD_SETTING = threading.RLock()  # torch's number of threads belongs to the process


def offer(op: str, device: str) -> Op | LinearKernel | Declined:
    """The kernel of `op`; everything on the CPU is served."""
    if device != "cpu":
        return Declined(f"runs on the cpu only, not on {device}")
    return OFFERED.get(op) or Declined(f"has no op {op!r}; known: {', '.join(OFFERED)}")


# --- elementary functions -------------------------------------------------------------------------------------------


def exp(x: Tensor) -> Tensor:
    """e^x of fp32 `x` of any shape, to half an ulp: fp64 inside, 2^n times a Taylor polynomial; 0 below -87.3."""
    return exp_wide(x.double().clamp_(-200.0, 200.0)).masked_fill_(x < -87.3, 0.0).float()


def exp_wide(wide: Tensor) -> Tensor:
    """e^x of fp64 numbers within -200 .. 200, relative error 2e-10."""
    n = torch.round(wide * LOG2E)
    r = wide - n * LN2  # |r| <= ln(2) / 2
    p = torch.full_like(r, 1 / math.factorial(8))
    for k in range(7, -1, -1):
        p.mul_(r).add_(1 / math.factorial(k))
    power = (n.long() + 1023 << 52).view(torch.float64)  # 2^n by its exponent bits
    return p.mul_(power)


def log(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal fp32 `x` of any shape, to half an ulp: 2 artanh((m - 1) / (m + 1)) + n ln 2."""
    m, n = torch.frexp(x)  # m in [1/2, 1)
    low = m < math.sqrt(0.5)
    m = torch.where(low, m + m, m).double()
    s = (m - 1) / (m + 1)
    z = s * s
    p = torch.full_like(z, 1 / 13)
    for k in (11, 9, 7, 5, 3, 1):
        p.mul_(z).add_(1 / k)
    return ((n - low.int()).double() * LN2 + 2 * s * p).float()


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of fp32 tensors with the product exact, rounded to fp32."""
    return (a.double() * b.double() + c).float()


def total(x: Tensor) -> Tensor:
    """Sum over the last dimension in ascending order, in fp64; [..., n] -> fp32 [...]."""
    return x.cumsum(-1, dtype=torch.float64)[..., -1].float()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread. With more, MKL cuts a product by their number, and at odd shapes (16 x 100 x 333 on four
    threads) the bits of a row then depend on its place in the block."""
    with THREAD_SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


# --- rows of the decoder --------------------------------------------------------------------------------------------


def embed(ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out [rows, hidden] = rows `ids` [rows] of `table` [vocab, hidden] (fp32 or bf16)."""
    out.copy_(table.index_select(0, ids))


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """RMSNorm (Zhang and Sennrich 2019): out = x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: [rows, hidden]; `residual` [rows, hidden], if given, is added to it in place first.
        weight: [hidden].
        out: [rows, hidden].
    """
    if residual is not None:
        x.add_(residual)
    mean = total(x * x).div_(x.shape[1])  # [rows]
    scale = 1.0 / (mean + eps).sqrt()
    torch.mul(x * scale[:, None], weight, out=out)


def rope_write(qkv: Tensor, positions: Tensor, slots: Tensor, table: Tensor, kv: KV, heads: int) -> None:
    """Rotates q and k in place (RoPE, Su et al. 2021, half-split pairs) and writes k and v into the cache, in its type.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim], q heads first, then k, then v.
        positions, slots: where each row stands, and where its key and value go. [rows]
        table: cos and sin per position. [max_len, 2, head_dim / 2]
    """
    rows = qkv.shape[0]
    _, kv_heads, page_size, head_dim = kv.keys.shape
    parts = qkv.view(rows, heads + 2 * kv_heads, head_dim)
    first, second = parts[:, : heads + kv_heads].split(head_dim // 2, dim=-1)  # views [rows, heads + kv_heads, head_dim / 2]
    cos, sin = table.index_select(0, positions)[:, :, None].unbind(1)  # [rows, 1, head_dim / 2]
    a, b = fma(-second, sin, first * cos), fma(first, sin, second * cos)
    first.copy_(a)
    second.copy_(b)
    page, offset = slots.long() // page_size, slots.long() % page_size
    kv.keys[page, :, offset] = parts[:, heads : heads + kv_heads].to(kv.keys.dtype)
    kv.values[page, :, offset] = parts[:, heads + kv_heads :].to(kv.values.dtype)


def gated(gate_up: Tensor, out: Tensor) -> None:
    """SwiGLU (Shazeer 2020): out [rows, f] = silu(gate) * up of gate_up [rows, 2 * f], gate first."""
    gate, up = gate_up.chunk(2, dim=1)
    torch.mul(gate / (1 + exp(-gate)), up, out=out)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """LayerNorm (Ba et al. 2016): out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. Arguments as `norm`; bias [hidden]."""
    if residual is not None:
        x.add_(residual)
    centred = x - total(x).div_(x.shape[1])[:, None]
    scale = 1.0 / (total(centred * centred).div_(x.shape[1]) + eps).sqrt()
    out.copy_(fma(centred * scale[:, None], weight, bias))


def norm_slices(x: Tensor, weight: Tensor, start: int, size: int, eps: float) -> None:
    """RMSNorm of parts of a row, in place: columns start .. start + len(weight), every `size` of them by themselves.

    Args:
        x: [rows, any width].
        weight: for all slices, one after the other.
    """
    count = len(weight) // size
    slices = x[:, start : start + len(weight)].reshape(-1, size)  # a copy, [rows * slices, size]
    scale = 1.0 / (total(slices * slices).div_(size) + eps).sqrt()
    x[:, start : start + len(weight)] = ((slices * scale[:, None]).view(len(x), count, size) * weight.view(count, size)).flatten(1)


def tanh(x: Tensor) -> Tensor:
    """Of fp32 `x` of any shape, from exp in fp64: 1 - 2 / (e^2x + 1) loses what fp64 has to spare; below 1e-3 x - x^3 / 3."""
    wide = x.double()
    power = exp_wide((wide + wide).clamp(-40.0, 40.0))
    return torch.where(x.abs() < 1e-3, wide - wide * wide * wide / 3, 1 - 2 / (power + 1)).float()


def erf_tail(t: Tensor) -> Tensor:
    """erfc(t) / 2 of fp64 `t` >= 0: exp(-t^2) times the polynomial of docs/numerics.md, `gelu`; relative error 7e-9."""
    s = 1 / (1 + 0.35 * t)
    p = torch.full_like(s, ERF_TAIL[-1])
    for c in reversed(ERF_TAIL[:-1]):
        p.mul_(s).add_(c)
    return exp_wide((-t * t).clamp(-200.0, 0.0)) * p * s


def gelu_of(x: Tensor) -> Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))) of fp32 `x`."""
    wide = x.double()
    tail = wide * erf_tail(wide.abs() * math.sqrt(0.5))
    return torch.where(wide < 0, tail, wide - tail).float()


def gelu_tanh_of(x: Tensor) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) of fp32 `x` (Hendrycks and Gimpel 2016)."""
    wide = x.double()
    w = math.sqrt(8 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (wide / (1 + exp_wide((-w).clamp(-200.0, 200.0)))).float()


def gated_gelu(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu(gate) * up of gate_up [rows, 2 * f], gate first."""
    gate, up = gate_up.chunk(2, dim=1)
    torch.mul(gelu_of(gate), up, out=out)


def gated_gelu_tanh(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu_tanh(gate) * up of gate_up [rows, 2 * f], gate first."""
    gate, up = gate_up.chunk(2, dim=1)
    torch.mul(gelu_tanh_of(gate), up, out=out)


def gelu(x: Tensor) -> None:
    """gelu of x [rows, f] in place."""
    x.copy_(gelu_of(x))


def gelu_tanh(x: Tensor) -> None:
    """gelu_tanh of x [rows, f] in place."""
    x.copy_(gelu_tanh_of(x))


def add(x: Tensor, y: Tensor) -> None:
    """x += y, both [rows, f]."""
    x.add_(y)


def scale(x: Tensor, factor: float) -> None:
    """x [rows, f] *= factor, which is rounded to fp32 first."""
    x.mul_(torch.tensor(factor, dtype=torch.float32))


def softcap(x: Tensor, cap: float) -> None:
    """x [rows, f] = cap * tanh(x / cap), in place."""
    x.copy_(tanh(x / cap) * cap)


# --- experts --------------------------------------------------------------------------------------------------------


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) of fp32 `x` of any shape."""
    return 1 / (1 + exp(-x))


@one_thread()
def route(logits: Tensor, correction: Tensor | None, router: RouterSpec, experts: Tensor, shares: Tensor) -> None:
    """Chooses experts for each row (docs/numerics.md, `route`); ties go to the lower number.

    Args:
        logits: [rows, router.experts]
        correction: added to the scores for choosing only. [router.experts]
        experts: int32 [rows, router.chosen], written: the numbers in ascending order.
        shares: [rows, router.chosen], written: their weights.
    """
    scores = sigmoid(logits) if router.scoring == "sigmoid" else softmax(logits)
    choice = scores if correction is None else scores + correction
    if router.groups > 1:
        groups = choice.unflatten(1, (router.groups, -1))
        best = total(groups.sort(descending=True).values[..., : router.group_best])  # [rows, groups]
        kept_groups = best.sort(descending=True, stable=True).indices[:, : router.kept]
        left_out = torch.ones_like(best, dtype=torch.bool).scatter_(1, kept_groups, False)
        choice = groups.masked_fill(left_out[..., None], -math.inf).flatten(1)
    numbers = choice.sort(descending=True, stable=True).indices[:, : router.chosen].sort().values
    taken = scores.gather(1, numbers)
    if router.normed:
        taken = taken / (total(taken)[:, None] + 1e-20)
    experts.copy_(numbers)
    torch.mul(taken, torch.tensor(router.scale, dtype=torch.float32), out=shares)


def softmax(x: Tensor) -> Tensor:
    """exp(x - max) / sum of x [rows, n]."""
    e = exp(x - x.amax(-1, keepdim=True))
    return e / total(e)[:, None]


@one_thread()
def add_rows(out: Tensor, rows: Tensor, part: Tensor, shares: Tensor) -> None:
    """out[rows[i]] += shares[i] * part[i], product and sum rounded one after the other.

    Args:
        out: [any, hidden]; rows: int32 [n], all different; part: [n, hidden], changed; shares: [n].
    """
    part.mul_(shares[:, None])
    out.index_add_(0, rows, part)


def gate_rows(x: Tensor, gate: Tensor) -> None:
    """x [rows, f] *= sigmoid(gate [rows, 1])."""
    x.mul_(sigmoid(gate))


@one_thread()
def gated_clamped(gate_up: Tensor, out: Tensor, limit: float, slope: float) -> None:
    """out [rows, f] = g * sigmoid(slope * g) * (u + 1) of gate_up [rows, 2 * f], gate first; g = min(gate, limit), u = up held within
    -limit .. limit."""
    gate, up = gate_up.chunk(2, dim=1)
    gate = gate.clamp(max=limit)
    torch.mul(gate * sigmoid(gate * torch.tensor(slope, dtype=torch.float32)), up.clamp(-limit, limit) + 1, out=out)


# --- linear ---------------------------------------------------------------------------------------------------------


def check_stored(kernel: str, stored: dict[str, Tensor], dtypes: dict[str, torch.dtype]) -> None:
    """Raises InputError unless `stored` holds a weight [n, k], and a scale [n] where the format has one, in these types."""
    if set(stored) != set(dtypes):
        raise InputError(f"{kernel}: needs the tensors {sorted(dtypes)}, got {sorted(stored)}")
    for name, dtype in dtypes.items():
        tensor = stored[name]
        if tensor.dtype != dtype or tensor.ndim != (2 if name == "weight" else 1):
            shape = "[n, k]" if name == "weight" else "[n]"
            raise InputError(f"{kernel}: {name} is {tensor.dtype} {list(tensor.shape)}, needs {dtype} {shape}")
    if "scale" in stored and len(stored["scale"]) != len(stored["weight"]):
        raise InputError(f"{kernel}: scale has {len(stored['scale'])} entries for {len(stored['weight'])} weight rows")


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """fp32 activations times fp32 or bf16 weights, widened to fp32."""

    name: str
    dtype: torch.dtype

    def prepare(self, stored: dict[str, Tensor]) -> Tensor:
        check_stored(self.name, stored, {"weight": self.dtype})
        weight = stored["weight"].contiguous()
        if len(weight) % BLOCK:  # with 2 to 11 outputs torch's rows differ by their place, with a multiple of 16 they do not
            weight = F.pad(weight, (0, 0, 0, -len(weight) % BLOCK))
        return weight if weight.data_ptr() % ALIGNMENT == 0 else weight.clone()

    @one_thread()
    def run(self, x: Tensor, prepared: Tensor, bias: Tensor | None, out: Tensor) -> None:
        for column in range(0, out.shape[1], PANEL):
            panel = prepared[column : column + PANEL].float()  # [n', k]
            width = min(PANEL, out.shape[1] - column)
            for row in range(0, len(x), BLOCK):
                rows = x[row : row + BLOCK]
                block = x.new_zeros(BLOCK, x.shape[1])
                block[: len(rows)] = rows
                out[row : row + BLOCK, column : column + width] = F.linear(block, panel)[: len(rows), :width]
        if bias is not None:
            out.add_(bias)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """int8 weights with one scale per output, activations quantised per block of 32 values of a row.

    A product of a block is an integer below 2^24 and so exact in fp32, in whatever order torch sums it.
    """

    name: str = "reference_int8"

    def prepare(self, stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        check_stored(self.name, stored, {"weight": torch.int8, "scale": torch.float32})
        weight = stored["weight"]
        padded = F.pad(weight, (0, -weight.shape[1] % INT8_BLOCK))
        return padded.unflatten(1, (-1, INT8_BLOCK)).transpose(0, 1).contiguous(), stored["scale"]  # [k / 32, n, 32]

    def run(self, x: Tensor, prepared: tuple[Tensor, Tensor], bias: Tensor | None, out: Tensor) -> None:
        weight, weight_scale = prepared
        quantised, scale = quantise_rows(x)  # [rows, k / 32, 32], [rows, k / 32]
        total = x.new_zeros(len(x), weight.shape[1])
        for block in range(len(weight)):
            dot = quantised[:, block] @ weight[block].float().T  # [rows, n], integers
            total = fma(dot, scale[:, block, None], total)
        torch.mul(total, weight_scale, out=out)
        if bias is not None:
            out.add_(bias)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 per block of 32: x [rows, k] -> whole numbers in fp32 [rows, k / 32, 32], scales [rows, k / 32]; k is padded."""
    blocks = F.pad(x, (0, -x.shape[1] % INT8_BLOCK)).unflatten(1, (-1, INT8_BLOCK))
    scale = blocks.abs().amax(-1) / 127
    whole = torch.where(scale[..., None] == 0, 0.0, torch.round(blocks / scale[..., None]))
    return whole, scale


# --- attention ------------------------------------------------------------------------------------------------------


def attention(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> None:
    """See `attention_softcap`; the scores have no bound."""
    attention_softcap(qkv, kv, rows, heads, scale, window, out, 0.0)


def attention_sinks(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, sinks: Tensor
) -> None:
    """See `attention_softcap`; a head's softmax has one more score, sinks [heads], that has no value, and the scores have no bound."""
    attention_softcap(qkv, kv, rows, heads, scale, window, out, 0.0, sinks)


@one_thread()
def attention_softcap(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float, sinks: Tensor | None = None
) -> None:
    """Softmax attention of each row over the keys up to its position, read from the cache (docs/numerics.md, section 3).

    Each row is computed by itself; the shapes within it follow from its position, the window and the model only.

    Args:
        qkv: q is the first heads * head_dim columns. [rows, any width]
        heads: query heads; a multiple of the cache's (grouped-query attention, Ainslie et al. 2023).
        scale: factor of the scores.
        window: how many keys a row sees at most, its own included; 0 is all.
        out: [rows, heads * head_dim]
        cap: scores s become cap * tanh(s / cap); 0 leaves them.
        sinks: see `attention_sinks`.
    """
    _, kv_heads, page_size, head_dim = kv.keys.shape
    starts = rows.tail_start.tolist()
    facts = zip(rows.request.tolist(), rows.positions.tolist(), rows.linear.tolist(), strict=True)
    for row, (request, position, linear) in enumerate(facts):
        q = qkv[row, : heads * head_dim].clone().view(kv_heads, heads // kv_heads, head_dim)
        first = max(0, position - window + 1) if window else 0
        slots = row_slots(rows.page_table[request], page_size, first, linear)
        if starts[row + 1] > starts[row]:
            tail = rows.tail_slots[starts[row] + max(0, first - linear) : starts[row + 1]]
            slots = torch.cat([slots, tail])
        page, offset = slots // page_size, slots % page_size
        merged = None
        begin = first
        while begin <= position:
            end = min(begin - begin % SEGMENT + SEGMENT, position + 1)
            here = slice(begin - first, end - first)
            keys = kv.keys[page[here], :, offset[here]].float()  # [n, kv_heads, head_dim]
            values = kv.values[page[here], :, offset[here]].float()
            part = segment(q, keys, values, scale, cap)
            merged = part if merged is None else merge(merged, part)
            begin = end
        if sinks is not None:
            sink = sinks.view(kv_heads, -1, 1)
            merged = merge(merged, (sink, torch.ones_like(sink), torch.zeros_like(merged[2])))
        _, mass, mix = merged
        out[row] = (mix / mass).flatten()


def row_slots(pages: Tensor, page_size: int, first: int, end: int) -> Tensor:
    """Slots of positions first .. end - 1 under a page table row `pages` [max_pages]; int32 [max(0, end - first)]."""
    position = torch.arange(first, max(first, end), dtype=torch.int32)
    return pages[position // page_size] * page_size + position % page_size


def segment(q: Tensor, keys: Tensor, values: Tensor, scale: float, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """One segment of one row, from scratch.

    Args:
        q: [kv_heads, group, head_dim]; keys, values: [n, kv_heads, head_dim], by position.

    Returns:
        greatest score [kv_heads, group, 1], sum of exp(score - greatest) [kv_heads, group, 1], and the values mixed
        with these weights [kv_heads, group, head_dim].
    """
    scores = (q @ keys.permute(1, 2, 0)) * scale  # [kv_heads, group, n]
    if cap:
        softcap(scores, cap)
    greatest = scores.amax(-1, keepdim=True)
    weights = exp(scores - greatest)
    return greatest, total(weights)[..., None], weights @ values.transpose(0, 1)


def merge(left: tuple[Tensor, Tensor, Tensor], right: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Two neighbouring parts of a row as one (online softmax, Milakov and Gimelshein 2018)."""
    greatest = torch.maximum(left[0], right[0])
    a, b = exp(left[0] - greatest), exp(right[0] - greatest)
    return greatest, fma(left[1], a, right[1] * b), fma(left[2], a, right[2] * b)


# --- sampling -------------------------------------------------------------------------------------------------------


def sample(logits: Tensor, rows: SampleRows, out: Tensor) -> None:
    """Chooses one id per row of `logits` [rows, vocab] into `out` int32 [rows] (docs/numerics.md, section 4)."""
    for row, line in enumerate(logits):
        if rows.temperature[row] == 0:
            out[row] = finite_above(line).argmax()  # torch promises the first of equal ones
            continue
        z = finite_above(finite_above(line) / rows.temperature[row])
        keep = kept(z, int(rows.top_k[row]), float(rows.top_p[row]), float(rows.min_p[row]))
        noise = gumbel(int(rows.seed[row]), int(rows.sample[row]), int(rows.position[row]), len(z))
        out[row] = (z + noise).masked_fill_(~keep, -math.inf).argmax()


def finite_above(z: Tensor) -> Tensor:
    """NaN as -inf and +inf as the greatest number, so that a broken model's row still has a choice."""
    return z.nan_to_num(nan=-math.inf, neginf=-math.inf)


def kept(z: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which ids may be sampled: bool [vocab] for z = logits / temperature [vocab]. min-p, then top-k, then top-p."""
    mass = exp(z - z.max())
    keep = mass >= min_p
    if not 0 < top_k < len(z) and top_p >= 1:
        return keep
    order = z.sort(descending=True, stable=True).indices  # equal ones by ascending id
    order = order[keep[order]]
    if top_k > 0:
        order = order[:top_k]
    if top_p < 1:
        running = mass[order].cumsum(0, dtype=torch.float64)
        order = order[: int((running < top_p * running[-1]).sum()) + 1]
    return torch.zeros_like(keep).index_fill_(0, order, True)


def philox(key: tuple, counter: tuple) -> tuple:
    """Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Args:
        key: two words; counter: four words. Ints, or int64 tensors of one shape, all below 2^32.

    Returns:
        four words of the same kinds. Products wrap around in int64; the masks take the right bits out of them.
    """
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p, r = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (r >> 32 & WORD) ^ c1 ^ k0, r & WORD, (p >> 32 & WORD) ^ c3 ^ k1, p & WORD
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def noise_words(seed: int, sample: int, position: int, vocab: int) -> Tensor:
    """The random word of each id, int64 [vocab]: four ids share a counter. `seed` as the bits of a signed or unsigned word."""
    group = torch.arange((vocab + 3) // 4)
    words = philox((seed & WORD, seed >> 32 & WORD), (position, sample, group, torch.zeros_like(group)))
    return torch.stack(words, dim=1).flatten()[:vocab]


def uniform(words: Tensor) -> Tensor:
    """Random words (int64, below 2^32) as fp32 numbers in (0, 1), finest near 0."""
    return ((words.float() + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)


def gumbel(seed: int, sample: int, position: int, vocab: int) -> Tensor:
    """Standard Gumbel noise per id, fp32 [vocab], a function of its arguments only: -log of an exponential -log1p(-v)."""
    v = uniform(noise_words(seed, sample, position, vocab))
    w = 1 - v
    exponential = torch.where(w == 1, v, -log(w) * v / (1 - w))
    return -log(exponential)


def logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of one token per row and of the `top` likeliest.

    Args:
        logits: [rows, vocab]; tokens: int32 [rows].

    Returns:
        logprob [rows]; rank int32 [rows], 1 is the likeliest, equal ones by ascending id; ids int32 [rows, top] and
        their log-probabilities [rows, top], likeliest first.
    """
    token = tokens.long()[:, None]
    greatest = logits.amax(1, keepdim=True)
    table = logits - greatest - log(total(exp(logits - greatest)))[:, None]  # [rows, vocab]
    own = logits.gather(1, token)
    lower = torch.arange(logits.shape[1]) < token
    rank = 1 + ((logits > own) | ((logits == own) & lower)).sum(1, dtype=torch.int32)
    ids = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return table.gather(1, token)[:, 0], rank, ids.int(), table.gather(1, ids)


# --- cache ----------------------------------------------------------------------------------------------------------


def move(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies token slots in all layers of `pool` [layers, 2, pages, kv_heads, page_size, head_dim].

    Args:
        source, target: slots, int32 [n]; one pair after the other, so a later pair sees what an earlier one wrote.
    """
    page_size = pool.shape[4]
    for old, new in zip(source.tolist(), target.tolist(), strict=True):
        pool[:, :, new // page_size, :, new % page_size] = pool[:, :, old // page_size, :, old % page_size]


OFFERED: dict[str, Op | LinearKernel] = {
    "embed": embed,
    "norm": norm,
    "rope_write": rope_write,
    "attention": attention,
    "gated": gated,
    "sample": sample,
    "logprobs": logprobs,
    "move": move,
    "layer_norm": layer_norm,
    "norm_slices": norm_slices,
    "attention_softcap": attention_softcap,
    "gated_gelu": gated_gelu,
    "gated_gelu_tanh": gated_gelu_tanh,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "add": add,
    "scale": scale,
    "softcap": softcap,
    "route": route,
    "add_rows": add_rows,
    "gate_rows": gate_rows,
    "gated_clamped": gated_clamped,
    "attention_sinks": attention_sinks,
    "linear_fp32": FloatLinear("reference_fp32", torch.float32),
    "linear_bf16": FloatLinear("reference_bf16", torch.bfloat16),
    "linear_int8": Int8Linear(),
}
