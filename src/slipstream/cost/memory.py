"""The memory plan: what will be allocated, before anything is. Owns the sum and the refusal; allocates nothing.

    weights   `weights_bytes`
    scratch   activations of the largest step, logits, rotary table, page tables; of experts that run all at once what lies between them
    KV        pages * layers * 2 * kv_heads * page_size * head_dim * bytes per number; in int8 and fp8 a scale for each head_dim of them too
    drafter   weights, scratch and KV of a model that drafts, if one does
    total     their sum, at most the limit
"""

from dataclasses import dataclass

from slipstream.arch import ModelSpec
from slipstream.base.errors import CapacityError, InputError
from slipstream.cost.step import KV_TYPES, LINEAR_ARITHMETIC, WeightFormat, kv_size, weights_bytes

USABLE = 0.9  # share of the available memory that is taken when no limit is given; the rest is for everything else
FLOAT = 4
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All sizes in bytes; `total` is exactly weights + kv + scratch + drafter.

    Attributes:
        model, weight_format, kv_type: what was planned for.
        weights, kv, scratch: the parts.
        pages: how many pages the KV pool has.
        page_size: positions per page.
        max_len: positions of the longest request.
        max_batch: requests that may run at a time.
        limit: what total must not exceed.
        limit_from: where the limit comes from, in words.
        drafter: of the model that drafts; 0 if none does.
    """

    model: str
    weight_format: WeightFormat
    kv_type: str
    weights: int
    kv: int
    scratch: int
    pages: int
    page_size: int
    max_len: int
    max_batch: int
    limit: int
    limit_from: str
    drafter: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.scratch + self.drafter

    @property
    def tokens(self) -> int:
        """Positions that the KV pool can hold."""
        return self.pages * self.page_size

    @property
    def full_requests(self) -> int:
        """Requests of max_len that fit into the pool at a time."""
        return self.pages // _pages(self.max_len, self.page_size)

    def lines(self) -> list[str]:
        """For printing: one line per part with exact bytes, their sum, and the limit."""
        held = f"{self.pages} pages of {self.page_size} = {self.tokens} tokens in {self.kv_type}"
        drafter = (("drafter", self.drafter, "weights, scratch and KV of the model that drafts"),) if self.drafter else ()
        rows = (
            ("weights", self.weights, f"{self.model} in {self.weight_format}"),
            ("KV", self.kv, f"{held}; {self.full_requests} of {self.max_batch} requests at full length {self.max_len}"),
            ("scratch", self.scratch, "activations, logits, tables"),
            *drafter,
            ("total", self.total, f"{100 * self.total / self.limit:.1f}% of the limit"),
            ("limit", self.limit, self.limit_from),
        )
        width = max(len(f"{size:,}") for _, size, _ in rows)
        return [f"{name:<8}{size:>{width},} B  {human(size):>10}  {note}" for name, size, note in rows]


def human(size: int) -> str:
    """1536 -> "1.50 KiB"."""
    if abs(size) < 1024:
        return f"{size} B"
    value, unit = float(size), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.2f} {_UNITS[unit]}"


def kv_bytes(spec: ModelSpec, kv_type: str, positions: int) -> int:
    """Keys and values of all layers for this many positions. Raises InputError for an unknown type."""
    if kv_type not in KV_TYPES:
        raise InputError(f"kv_type={kv_type!r}: must be one of {', '.join(KV_TYPES)}")
    sizes = ((layer.mixer.kv_heads, layer.mixer.head_dim) for layer in spec.layers)
    return positions * sum(kv_size(kv_type, 2 * heads * head_dim, head_dim) for heads, head_dim in sizes)


def scratch_bytes(spec: ModelSpec, max_rows: int, max_logit_rows: int, max_len: int, max_batch: int = 1, page_size: int = 1) -> int:
    """What a decoder allocates besides weights and KV, in fp32 (model/decoder.py allocates just this, and int32 page tables).

    Per row of the largest step: three times the hidden size (stream, normed, update) and the buffers of the largest kind of
    mixer or ffn. Per row of logits: the vocabulary and twice the hidden size.
    Rotary tables: max_len * head_dim each. Page tables: max_batch * pages of max_len.
    """
    groups: dict[str, dict[str, int]] = {}
    for layer in spec.layers:
        for name, part in (("mixer", layer.mixer), ("ffn", layer.ffn)):
            group = groups.setdefault(f"{name}.{part.kind}", {})
            for buffer, width in part.buffers().items():
                group[buffer] = max(width, group.get(buffer, 0))
    inner = max(sum(group.values()) for group in groups.values())
    tables = len(spec.ropes) * max_len * spec.head_dim
    numbers = max_rows * (3 * spec.hidden + inner) + max_logit_rows * (2 * spec.hidden + spec.vocab) + tables
    return FLOAT * (numbers + max_batch * _pages(max_len, page_size))


def experts_bytes(spec: ModelSpec, max_rows: int, inner: int) -> int:
    """What experts that run all at once take besides (ops/triton/mixture.py), as a layer's scratch is the next one's: of each row and
    expert of it the inner numbers, of `inner` bytes, and what it is to add; and lists of the rows of every expert."""
    routed = [layer.ffn for layer in spec.layers if layer.ffn.kind == "moe"]
    pairs = ((ffn.router.chosen * (inner * ffn.width + FLOAT * ffn.hidden), FLOAT * ffn.router.experts) for ffn in routed)
    return max((max_rows * parts + (max_rows + 1) * lists for parts, lists in pairs), default=0)


def pages_that_fit(spec: ModelSpec, kv_type: str, page_size: int, size: int) -> int:
    """How many pages `size` bytes hold; 0 if none (or if there is nothing left)."""
    return max(0, size) // kv_bytes(spec, kv_type, page_size)


def plan(
    spec: ModelSpec,
    *,
    weight_format: WeightFormat,
    kv_type: str,
    page_size: int,
    max_len: int,
    max_batch: int,
    max_rows: int,
    max_logit_rows: int,
    available: int | None,
    memory: int | None = None,
    pages: int | None = None,
    stored: str | None = None,
    drafter: tuple[int, int] = (0, 0),
    inner: int = 0,
) -> MemoryPlan:
    """Divides the memory. The KV pool gets what max_batch requests of max_len need, or what is left if that is less, but at least
    one request of max_len must fit.

    Args:
        spec: the model.
        weight_format, kv_type: keys of WEIGHT_FORMATS, KV_TYPES.
        page_size: positions per page.
        max_len: positions of the longest request, prompt and output.
        max_batch: requests at a time.
        max_rows: rows of the largest step; max_logit_rows: rows of the largest call for logits.
        available: bytes that the machine can give now, None if unknown (then `memory` is needed).
        memory: the user's limit in bytes; without it USABLE of what is available.
        pages: exactly this many pages.
        stored: type of the embedding table, see `cost.step.table_type`.
        drafter: bytes of a model that drafts, and what it has beside each page.
        inner: bytes of a number between the products of experts that run all at once, 0 where none do.

    Raises:
        CapacityError: it does not fit; names the sum, the limit and what would fit.
        InputError: a field is out of range.
    """
    _at_least_one(page_size=page_size, max_len=max_len, max_batch=max_batch, max_rows=max_rows, max_logit_rows=max_logit_rows)
    _at_least_one(**{name: value for name, value in (("memory", memory), ("pages", pages)) if value is not None})
    limit, limit_from = _limit(available, memory)
    weights = weights_bytes(spec, weight_format, stored)
    scratch = scratch_bytes(spec, max_rows, max_logit_rows, max_len, max_batch, page_size)
    scratch += experts_bytes(spec, max_rows, inner) if inner else 0
    least = _pages(max_len, page_size)
    if pages is not None and pages < least:
        raise CapacityError(f"pages={pages}: a request of max_len={max_len} needs {least} pages of {page_size}; raise it or lower max_len")
    page, (fixed, page_beside) = kv_bytes(spec, kv_type, page_size), drafter
    fitting = max(0, limit - weights - scratch - fixed) // (page + page_beside)
    chosen = pages if pages is not None else max(least, min(fitting, max_batch * least))
    done = MemoryPlan(
        *(spec.name, weight_format, kv_type, weights, chosen * page, scratch),
        *(chosen, page_size, max_len, max_batch, limit, limit_from, fixed + chosen * page_beside),
    )
    if done.total > limit:
        raise CapacityError(_refusal(spec, done, stored, explicit=pages is not None))
    return done


def _at_least_one(**fields: int) -> None:
    for name, value in fields.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")


def _pages(positions: int, page_size: int) -> int:
    return -(-positions // page_size)


def _limit(available: int | None, memory: int | None) -> tuple[int, str]:
    """(bytes, where that comes from)."""
    if memory is None and available is None:
        raise InputError("memory=None: this machine does not say how much is available; give memory in bytes")
    if memory is None:
        return int(USABLE * available), f"{USABLE:.0%} of the {human(available)} available"
    if available is not None and memory > available:
        raise CapacityError(
            f"memory={memory} ({human(memory)}): only {available} B ({human(available)}) are available here; lower memory or free some"
        )
    return memory, "the option memory"


def _refusal(spec: ModelSpec, done: MemoryPlan, stored: str | None, *, explicit: bool) -> str:
    """The sum, the limit and the ways out, each with its numbers."""
    need = f"{done.pages} pages" if explicit else f"one request of max_len={done.max_len}"
    drafter = f" + drafter {done.drafter} B" if done.drafter else ""
    text = (
        f"{done.model} in {done.weight_format} does not fit: weights {done.weights} B + KV {done.kv} B ({need}, {done.kv_type})"
        f" + scratch {done.scratch} B{drafter} = {done.total} B ({human(done.total)}), but the limit is {done.limit} B"
        f" ({human(done.limit)}, {done.limit_from})."
    )
    return f"{text} Ways out: {'; '.join(_ways_out(spec, done, stored, explicit))}."


def _ways_out(spec: ModelSpec, done: MemoryPlan, stored: str | None, explicit: bool) -> list[str]:
    ways = []
    left = pages_that_fit(spec, done.kv_type, done.page_size, done.limit - done.weights - done.scratch - done.drafter)
    if left and explicit:
        ways.append(f"pages={left} would fit")
    elif left:
        ways.append(f"max_len={left * done.page_size} would fit")
    if done.kv_type == "fp32":
        ways.append("a bf16 KV cache halves KV")
    elif done.kv_type == "bf16":
        ways.append(f"kv=int8 on a CPU, or kv=fp8 on a GPU, makes KV {human(kv_bytes(spec, 'int8', done.tokens))}")
    if done.drafter:
        ways.append(f"without its drafter it needs {human(done.drafter)} less")
    smaller = {name: weights_bytes(spec, name, stored) for name in LINEAR_ARITHMETIC["cpu"]}
    ways += [f"quant={name} makes the weights {human(size)}" for name, size in smaller.items() if size < done.weights]
    if done.scratch > done.weights or done.weights + done.kv <= done.limit:
        ways.append("a smaller max_batch or max_step_tokens makes scratch smaller")
    ways.append(f"a machine or memory limit with at least {human(done.total)}")
    return ways
