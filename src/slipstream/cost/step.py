"""Bytes and operations of one step. Owns the formulas; knows nothing of time, machines or kernels.

What is counted is what no kernel can avoid, so that a limit made of it is a true one:

* Every weight is read once per step, whatever the number of rows: all linear layers with their scales and biases, all norms,
  the head only if some row needs logits, and of the embedding table one row per token.
* KV, per request with c cached positions and u rows: positions 0 .. c+u-1 are read once (a row reads its own keys back from the
  cache too), u positions are written. A position is 2 * kv_heads * head_dim numbers in each layer.
* Operations, a multiply-add being two: 2 * n * k per row and linear layer [n, k], and 4 * heads * head_dim per row, layer and
  visible key (score and weighted sum); row i of a chunk sees c + i + 1 keys.

Not counted: activations between ops (they stay in the caches), norms, rotations, exponentials, sampling.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipstream.arch import ModelSpec, TensorSpec, tensors
from slipstream.base.errors import InputError

# format -> (bytes per weight, bytes per output row)
WEIGHT_FORMATS = {"fp32": (4, 0), "bf16": (2, 0), "int8": (1, 4)}
KV_TYPES = {"fp32": 4, "bf16": 2}
# weight format -> arithmetic that the numerics ask for: bf16 weights are widened to fp32 (docs/numerics.md, section 2)
ARITHMETIC = {"fp32": "fp32", "bf16": "fp32", "int8": "int8"}
PLAIN = 4  # bytes of a number in norms and biases, which are fp32 in every format


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


def table_type(weight_format: str, stored: str | None = None) -> str:
    """Type of the embedding table, which is never quantised: as stored in the checkpoint, where that is not said "fp32" for
    fp32 weights and "bf16" for all others."""
    _known("stored", stored or "bf16", KV_TYPES)
    return stored or ("fp32" if weight_format == "fp32" else "bf16")


def weights_bytes(spec: ModelSpec, weight_format: str, stored: str | None = None) -> int:
    """All weights in memory: linear layers, embedding table and head. A tied head is a packed copy of the table, so it counts
    again. Padding to whole panels (docs/numerics.md) is left out: below 32 rows per layer.

    Args:
        weight_format: of the linear layers and the head, a key of WEIGHT_FORMATS.
        stored: type of the embedding table, see `table_type`.

    Raises:
        InputError: an unknown format.
    """
    table = next(tensor for tensor in tensors(spec) if tensor.role == "embedding")
    return _layers_bytes(spec, weight_format) + _head_bytes(spec, weight_format) + table.size * KV_TYPES[table_type(weight_format, stored)]


def linear_operations(spec: ModelSpec, rows: int, sampled_rows: int) -> int:
    """Operations of all linear layers on `rows` rows and of the head on `sampled_rows` of them."""
    inner = sum(tensor.size for tensor in tensors(spec) if tensor.role == "linear")
    return 2 * (rows * inner + sampled_rows * spec.vocab * spec.hidden)


def step_cost(
    spec: ModelSpec,
    weight_format: str,
    kv_type: str,
    rows: int,
    context: int,
    sampled_rows: int,
    *,
    requests: int = 1,
    stored: str | None = None,
) -> Cost:
    """The cost of one step in which `requests` equal requests share `rows` rows.

    A chunk of prefill is one request with many rows; a decode step of a batch has as many rows as requests. Chunks of other
    shapes add up: `step_cost(...)` of one, plus `replace(step_cost(...), weights=0)` of the others.

    Args:
        weight_format: of linear layers and head, a key of WEIGHT_FORMATS.
        kv_type: of the cache, a key of KV_TYPES.
        rows: all rows of the step.
        context: positions that each request has cached before it.
        sampled_rows: rows whose logits are wanted.
        requests: how many share the rows evenly.
        stored: type of the embedding table, see `table_type`.

    Raises:
        InputError: an unknown format or type, or numbers that contradict one another.
    """
    _known("kv_type", kv_type, KV_TYPES)
    _known("weight_format", weight_format, WEIGHT_FORMATS)
    for name, value, least in (("rows", rows, 1), ("context", context, 0), ("sampled_rows", sampled_rows, 0), ("requests", requests, 1)):
        if value < least:
            raise InputError(f"{name}={value}: must be at least {least}")
    if rows % requests:
        raise InputError(f"rows={rows}: does not divide evenly among requests={requests}; add up the costs of unequal ones")
    if sampled_rows > rows:
        raise InputError(f"sampled_rows={sampled_rows}: must not exceed rows={rows}")
    chunk = rows // requests
    number = KV_TYPES[kv_type]
    position = sum(2 * layer.mixer.kv_heads * layer.mixer.head_dim * number for layer in spec.layers)
    keys = requests * (chunk * context + chunk * (chunk + 1) // 2)  # visible keys, over all rows
    attention = sum(4 * layer.mixer.heads * layer.mixer.head_dim for layer in spec.layers) * keys
    linear = linear_operations(spec, rows, sampled_rows)
    return Cost(
        weights=_layers_bytes(spec, weight_format)
        + (_head_bytes(spec, weight_format) if sampled_rows else 0)
        + min(rows, spec.vocab) * spec.hidden * KV_TYPES[table_type(weight_format, stored)],
        kv_read=requests * (context + chunk) * position,
        kv_written=rows * position,
        operations=_by_kind((ARITHMETIC[weight_format], linear), ("fp32", attention)),
    )


def _by_kind(*parts: tuple[str, int]) -> dict[str, int]:
    out: dict[str, int] = {}
    for kind, operations in parts:
        out[kind] = out.get(kind, 0) + operations
    return out


def _layers_bytes(spec: ModelSpec, weight_format: str) -> int:
    """Everything that every row of a step needs: linear layers, norms, biases."""
    return sum(_tensor_bytes(tensor, weight_format) for tensor in tensors(spec) if tensor.role not in ("embedding", "head"))


def _head_bytes(spec: ModelSpec, weight_format: str) -> int:
    return _tensor_bytes(TensorSpec("head.weight", (spec.vocab, spec.hidden), "head"), weight_format)


def _tensor_bytes(tensor: TensorSpec, weight_format: str) -> int:
    _known("weight_format", weight_format, WEIGHT_FORMATS)
    if tensor.role not in ("linear", "head"):
        return tensor.size * PLAIN
    per_weight, per_row = WEIGHT_FORMATS[weight_format]
    return tensor.size * per_weight + tensor.shape[0] * per_row


def _known(field_name: str, value: str, among: Mapping[str, object]) -> None:
    if value not in among:
        raise InputError(f"{field_name}={value!r}: must be one of {', '.join(among)}")
