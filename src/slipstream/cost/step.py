"""Bytes and operations of one step. Owns the formulas; knows nothing of time, machines or kernels.

What is counted is what no kernel can avoid, so that a limit made of it is a true one:

* Every weight is read once per step, whatever the number of rows: all linear layers with their scales and biases, all norms,
  the head only if some row needs logits, and of the embedding table one row per token.
* Experts: a row goes to k of n. Operations are those of its k; bytes those of min(rows * k, n) experts, an upper bound: where rows
  go to the same experts, a step reads less and may be faster than its limit. Routers are fp32 in every format.
* KV, per request: its cached positions and those of its rows are read once (a row reads its own keys back from the cache too),
  one position per row is written. A position is 2 * kv_heads * head_dim numbers in each layer. A layer with a window reads and
  sees the positions within it only.
* Operations, a multiply-add being two: 2 * n * k per row and linear layer [n, k], and 4 * heads * head_dim per row, layer and
  visible key (score and weighted sum).

Not counted: activations between ops (they stay in the caches), norms, rotations, exponentials, sampling.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from slipstream.arch import ModelSpec, TensorSpec, tensors
from slipstream.base.errors import InputError

# format -> (bits per weight, bytes per output row); scales that inputs share count with the weights
WEIGHT_FORMATS = {
    "fp32": (32, 0), "bf16": (16, 0), "int8": (8, 4), "q8_0": (8.5, 0), "int4": (4.5, 0), "int4_zero": (4.75, 0), "q4_k": (4.625, 0),
    "q6_k": (8.5625, 0), "int4_64": (4.25, 0), "int4_128": (4.125, 0), "fp8": (8, 4), "fp8_block": (8 + 32 / 128**2, 0),
    "fp6": (6, 4),
}  # fmt: skip
TABLE_TYPES = {"fp32": 4, "bf16": 2}  # bytes per number
KV_TYPES = {"fp32": (4, 0), "bf16": (2, 0), "int8": (1, 4), "fp8": (1, 4)}  # bytes per number, and of a scale
# Arithmetic that the numerics ask for. On the CPU bf16 is widened to fp32 (docs/numerics.md, section 2); on a GPU matrix products
# take bf16, int8 weights too, but for fp8; fp8 and fp6 a CPU does not compute. Attention follows the type of the cache.
LINEAR_ARITHMETIC = {
    "cpu": {"fp32": "fp32", "bf16": "fp32", "int8": "int8", "q8_0": "int8", "q6_k": "int8"}
    | dict.fromkeys(("int4", "int4_zero", "q4_k", "int4_64", "int4_128"), "int4"),
    "cuda": dict.fromkeys(WEIGHT_FORMATS, "bf16") | {"fp32": "fp32", "fp8": "fp8", "fp8_block": "fp8"},
}
ATTENTION_ARITHMETIC = {"cpu": dict.fromkeys(KV_TYPES, "fp32"), "cuda": {"fp32": "fp32", "bf16": "bf16", "fp8": "bf16"}}
EMBEDDING = "embed.weight"
PLAIN = 4  # bytes of a number in norms and biases, which are fp32 in every format


@dataclass(frozen=True)
class Mix:
    """Linear layers of several formats in one model, as a GGUF file has them.

    Attributes:
        default: format of those that are not named.
        named: (canonical name of a weight, its format).
    """

    default: str
    named: tuple[tuple[str, str], ...]

    @cached_property
    def _formats(self) -> dict[str, str]:
        return dict(self.named)

    def __contains__(self, name: str) -> bool:
        return name in self._formats

    def of(self, name: str) -> str:
        """Format of a weight."""
        return self._formats.get(name, self.default)

    def __str__(self) -> str:
        return "+".join(sorted({format for _, format in self.named}))


WeightFormat = str | Mix


def format_of(weight_format: WeightFormat, name: str) -> str:
    """Format of the weight `name`, one of WEIGHT_FORMATS; InputError for another."""
    found = weight_format.of(name) if isinstance(weight_format, Mix) else weight_format
    _known("weight_format", found, WEIGHT_FORMATS)
    return found


@dataclass(frozen=True, slots=True)
class Work:
    """What a step is asked to do, as far as its cost depends on it. An empty one is a step that computes nothing.

    Attributes:
        rows: all rows of the step; as many positions are written.
        sampled: rows whose logits are wanted.
        read: positions whose keys and values are read, each once per request, those of the rows themselves included.
        keys: visible keys, summed over all rows.
        narrow: the same two for layers with a window, one (window, read, keys) per window.

    Raises:
        InputError: numbers that no step can have together.
    """

    rows: int = 0
    sampled: int = 0
    read: int = 0
    keys: int = 0
    narrow: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        # every position read is seen by some row, and no row sees more than is read
        if not 0 <= self.sampled <= self.rows <= self.read <= self.keys <= self.rows * self.read:
            raise InputError(f"{self}: must satisfy 0 <= sampled <= rows <= read <= keys <= rows * read")

    @classmethod
    def of(cls, chunks: Iterable[tuple[int, int, Sequence[int]]], sampled: int, windows: Sequence[int] = ()) -> "Work":
        """The work of a step's chunks.

        Args:
            chunks: per request (start, trunk, depths): cached positions, trunk rows (at least one), depth of each draft node
                (1 = child of the last trunk row). Trunk row i sees start + i + 1 keys, a node at depth d start + trunk + d.
            sampled: rows whose logits are wanted, over all chunks.
            windows: of the model's layers, `ModelSpec.windows`.

        Raises:
            InputError: a number below its least value, or more sampled rows than rows.
        """
        rows = read = keys = 0
        narrow = {window: (0, 0) for window in windows}
        for start, trunk, depths in chunks:
            if trunk == 1 and start >= 0 and not depths and not narrow:  # as most are
                rows, read, keys = rows + 1, read + start + 1, keys + start + 1
                continue
            if start < 0 or trunk < 1 or (depths and min(depths) < 1):
                raise InputError(f"start={start}, trunk={trunk}, depths={list(depths)}: must be at least 0, 1 and 1")
            end, nodes = start + trunk, len(depths)
            rows += trunk + nodes
            read += end + nodes
            keys += trunk * start + trunk * (trunk + 1) // 2 + nodes * end + sum(depths)
            for window, (seen, pairs) in narrow.items():
                whole = max(0, min(end, window) - start)  # rows before the window's end see all earlier positions
                pairs += whole * start + whole * (whole + 1) // 2 + (trunk - whole) * window
                pairs += sum(min(end + depth, window) for depth in depths)
                narrow[window] = (seen + end - max(0, start + 1 - window) + nodes, pairs)
        return cls(rows, sampled, read, keys, tuple((window, *sums) for window, sums in narrow.items()))

    def within(self, window: int) -> tuple[int, int]:
        """(read, keys) of a layer with this window, 0 for none. Where they were not counted: what is certain to be needed."""
        if not window or window >= self.read:
            return self.read, self.keys
        for counted, read, keys in self.narrow:
            if counted == window:
                return read, keys
        return max(window, self.rows), max(self.rows, self.keys * window // self.read)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step moves and computes.

    Attributes:
        weights: bytes of weights read.
        kv_read, kv_written: bytes of keys and values.
        operations: by kind of arithmetic ("fp32", "bf16", "int8"), a multiply-add counted as two.
    """

    weights: int = 0
    kv_read: int = 0
    kv_written: int = 0
    operations: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """All bytes that pass between memory and processor."""
        return self.weights + self.kv_read + self.kv_written

    def __add__(self, other: "Cost") -> "Cost":
        kinds = dict.fromkeys([*self.operations, *other.operations])
        operations = {kind: self.operations.get(kind, 0) + other.operations.get(kind, 0) for kind in kinds}
        return Cost(self.weights + other.weights, self.kv_read + other.kv_read, self.kv_written + other.kv_written, operations)


def table_type(weight_format: WeightFormat, stored: str | None = None) -> str:
    """Type of the embedding table, which is never quantised: as stored in the checkpoint, where that is not said "fp32" for
    fp32 weights and "bf16" for all others."""
    _known("stored", stored or "bf16", TABLE_TYPES)
    return stored or ("fp32" if weight_format == "fp32" else "bf16")


def _packed(name: str, weight_format: WeightFormat) -> bool:
    """Whether a table stays in a linear format of its own, in one piece with a head that is tied to it."""
    return isinstance(weight_format, Mix) and name in weight_format


def _table_bits(name: str, weight_format: WeightFormat, stored: str | None) -> float:
    """Bits per number of an embedding table."""
    if _packed(name, weight_format):
        return WEIGHT_FORMATS[format_of(weight_format, name)][0]
    return 8 * TABLE_TYPES[table_type(weight_format, stored)]


def weights_bytes(spec: ModelSpec, weight_format: WeightFormat, stored: str | None = None) -> int:
    """All weights in memory: linear layers, embedding table and head. A tied head is a packed copy of the table, so it counts
    again. Padding to whole panels (docs/numerics.md) is left out: below 32 rows per layer.

    Args:
        weight_format: of the linear layers and the head, a key of WEIGHT_FORMATS or a Mix of them.
        stored: type of the embedding table, see `table_type`.

    Raises:
        InputError: an unknown format.
    """
    tables = sum(_table_bits(tensor.name, weight_format, stored) * tensor.size for tensor in tensors(spec) if tensor.role == "embedding")
    shared = spec.tied and not spec.head_bias and _packed(EMBEDDING, weight_format)
    return _layers_bytes(spec, weight_format) + int(tables / 8) + (0 if shared else _head_bytes(spec, weight_format))


def linear_operations(spec: ModelSpec, rows: int, sampled_rows: int) -> int:
    """Operations of all linear layers on `rows` rows and of the head on `sampled_rows` of them."""
    used = sum(size * chosen // count for _, (chosen, count), size in _linear_sizes(spec, "fp32"))  # exact: a layer's experts are alike
    return 2 * (rows * used + sampled_rows * spec.vocab * spec.hidden)


def step_cost(
    spec: ModelSpec,
    weight_format: WeightFormat,
    kv_type: str,
    work: Work,
    *,
    stored: str | None = None,
    device: str = "cpu",
    activations: str = "32",
) -> Cost:
    """The cost of one step, exact for every mixture of chunks; nothing for empty work.

    Args:
        weight_format: of linear layers and head, a key of WEIGHT_FORMATS or a Mix of them.
        kv_type: of the cache, a key of KV_TYPES.
        work: of the step.
        stored: type of the embedding table, see `table_type`.
        device: "cpu" or "cuda", whose kernels choose the arithmetic.
        activations: as `Options.activations` says it; "fp8" makes products of e4m3.

    Raises:
        InputError: an unknown format, type or device.
    """
    _known("device", device, LINEAR_ARITHMETIC)
    _known("kv_type", kv_type, ATTENTION_ARITHMETIC[device])
    table = _table_bits(EMBEDDING, weight_format, stored) / 8
    if not work.rows:
        return Cost()
    positions = attention = written = 0
    for window, (numbers, operations) in context_sizes(spec).items():
        read, keys = work.within(window)
        positions += read * numbers
        written += work.rows * numbers
        attention += keys * operations
    places = min(work.rows, spec.vocab) + (1 if spec.positions else 0)  # rows of the tables; of positions all may be the same
    return Cost(
        weights=_layers_bytes(spec, weight_format, work.rows)
        + (_head_bytes(spec, weight_format) if work.sampled else 0)
        + int(places * spec.hidden * table),
        kv_read=kv_size(kv_type, positions, spec.head_dim),
        kv_written=kv_size(kv_type, written, spec.head_dim),
        operations=_by_kind(
            *_linear_operations(spec, weight_format, work.rows, work.sampled, (device, activations)),
            (ATTENTION_ARITHMETIC[device][kv_type], attention),
        ),
    )


def _linear_operations(
    spec: ModelSpec, weight_format: WeightFormat, rows: int, sampled: int, kernels: tuple[str, str]
) -> list[tuple[str, int]]:
    """(kind of arithmetic, operations) of all linear layers and the head; `kernels`: device and activations."""
    sizes = _linear_sizes(spec, weight_format)
    layers = [(_arithmetic(format, *kernels), 2 * rows * size * chosen // count) for format, (chosen, count), size in sizes]
    return [*layers, (_arithmetic(format_of(weight_format, "head.weight"), *kernels), 2 * sampled * spec.vocab * spec.hidden)]


def _arithmetic(format: str, device: str, activations: str) -> str:
    """Kind of arithmetic of a linear format on a device; InputError where it has none."""
    if format not in LINEAR_ARITHMETIC[device]:
        raise InputError(f"weight_format={format!r}: no kernel on {device}; take quant=int8, which is as small, or device=cuda")
    kind = LINEAR_ARITHMETIC[device][format]
    return "fp8" if activations == "fp8" and kind == "bf16" and format != "bf16" else kind


@lru_cache(maxsize=16)
def _linear_sizes(spec: ModelSpec, weight_format: WeightFormat) -> tuple[tuple[str, tuple[int, int], int], ...]:
    """Numbers in linear layers between embedding and head, by format and `TensorSpec.routed`."""
    out: dict[tuple[str, tuple[int, int]], int] = {}
    for tensor in tensors(spec):
        if tensor.role in ("linear", "router"):
            place = (format_of(weight_format, tensor.name), tensor.routed)
            out[place] = out.get(place, 0) + tensor.size
    return tuple((format, routed, size) for (format, routed), size in out.items())


@lru_cache(maxsize=16)
def kv_size(kv_type: str, numbers: int, head_dim: int) -> int:
    """Bytes of that many numbers in the cache, whole keys and values of heads."""
    number, scale = KV_TYPES[kv_type]
    return numbers * number + numbers // head_dim * scale


def context_sizes(spec: ModelSpec) -> dict[int, tuple[int, int]]:
    """By window (0 for none): numbers in the cache per position, and operations per visible key, of all layers with that window."""
    out: dict[int, tuple[int, int]] = {}
    for mixer in (layer.mixer for layer in spec.layers):
        numbers, operations = out.get(mixer.window, (0, 0))
        numbers += 2 * mixer.kv_heads * mixer.head_dim
        out[mixer.window] = numbers, operations + 4 * mixer.heads * mixer.head_dim
    return out


def _by_kind(*parts: tuple[str, int]) -> dict[str, int]:
    out: dict[str, int] = {}
    for kind, operations in parts:
        out[kind] = out.get(kind, 0) + operations
    return out


def _layers_bytes(spec: ModelSpec, weight_format: WeightFormat, rows: int | None = None) -> int:
    """Everything between embedding and head: linear layers, norms, biases. Of experts as many as `rows` rows can go to, all for
    None."""
    sizes = _layer_sizes(spec, weight_format)
    return sum(size if rows is None else size * min(rows * chosen, count) // count for (chosen, count), size in sizes)


@lru_cache(maxsize=16)  # a model of experts has ten thousands of parameters, and a cost is asked for at every step
def _layer_sizes(spec: ModelSpec, weight_format: WeightFormat) -> tuple[tuple[tuple[int, int], int], ...]:
    """Bytes between embedding and head, by `TensorSpec.routed`."""
    inner = [tensor for tensor in tensors(spec) if tensor.role != "embedding" and not tensor.name.startswith("head.")]
    return _by_routing((tensor.routed, _tensor_bytes(tensor, weight_format)) for tensor in inner)


def _by_routing(parts: Iterable[tuple[tuple[int, int], int]]) -> tuple[tuple[tuple[int, int], int], ...]:
    out: dict[tuple[int, int], int] = {}
    for routed, size in parts:
        out[routed] = out.get(routed, 0) + size
    return tuple(out.items())


def _head_bytes(spec: ModelSpec, weight_format: WeightFormat) -> int:
    bias = spec.vocab * PLAIN if spec.head_bias else 0
    return _tensor_bytes(TensorSpec("head.weight", (spec.vocab, spec.hidden), "head"), weight_format) + bias


def _tensor_bytes(tensor: TensorSpec, weight_format: WeightFormat) -> int:
    bits, per_row = WEIGHT_FORMATS[format_of(weight_format, tensor.name)]
    if tensor.role not in ("linear", "head"):
        return tensor.size * PLAIN
    return int(tensor.size * bits / 8) + tensor.shape[0] * per_row


def _known(field_name: str, value: str, among: Mapping[str, object]) -> None:
    if value not in among:
        raise InputError(f"{field_name}={value!r}: must be one of {', '.join(among)}")
