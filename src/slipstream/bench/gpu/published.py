"""Published figures of other engines' kernels on the same GPU: NVIDIA's aiconfigurator tables (csv.gz, latency in milliseconds).

Owns reading them and finding the row of a shape. The tables are no part of this project; where none is given, columns stay empty.
Given are folders or files, by --published or SLIPSTREAM_PUBLISHED (separated by ':'), else what lies in SLIPSTREAM_SHARED.
"""

import csv
import gzip
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

PREFIX = "h200"  # of the file names in a folder that holds tables of several machines
VARIABLE, SHARED = "SLIPSTREAM_PUBLISHED", "SLIPSTREAM_SHARED"
IN_SHARED = "data/measured_latency/aiconfigurator"
OPS = ("gemm", "generation_attention", "context_attention")


class Published:
    """Seconds by shape. Files are read when they are first asked for.

    Args:
        sources: files or folders; none: as the environment says.
    """

    def __init__(self, sources: Sequence[str] = ()):
        given = list(sources) or [part for part in os.environ.get(VARIABLE, "").split(":") if part]
        if not given and os.environ.get(SHARED):
            given = [str(Path(os.environ[SHARED]) / IN_SHARED)]
        self.files = {op: [path for source in given for path in _files(Path(source), op)] for op in OPS}

    def gemm(self, kind: str, m: int, n: int, k: int) -> float | None:
        """x [m, k] times weight [n, k]; kind: "bfloat16", "fp8" or "fp8_block". The best of several rows."""
        return self._gemm.get((kind, m, n, k))

    def decode_attention(self, batch: int, context: int, heads: int, kv_heads: int, head_dim: int, coded: bool = False) -> float | None:
        """One new token per sequence over `context` keys in bf16 or fp8, its own included (the tables count those before it)."""
        found = self._decode_coded if coded else self._decode
        return found.get((batch, context - 1, heads, kv_heads, head_dim))

    def prefill_attention(self, batch: int, tokens: int, heads: int, kv_heads: int, head_dim: int) -> float | None:
        """`tokens` new tokens per sequence, causal, nothing before them, bf16."""
        return self._prefill.get((batch, tokens, heads, kv_heads, head_dim))

    @cached_property
    def _gemm(self) -> dict[tuple, float]:
        rows = self._rows("gemm")
        return _least((row["gemm_dtype"], int(row["m"]), int(row["n"]), int(row["k"]), float(row["latency"])) for row in rows)

    @cached_property
    def _decode(self) -> dict[tuple, float]:
        return _least(_attention(row, "step") for row in self._rows("generation_attention") if _plain(row))

    @cached_property
    def _decode_coded(self) -> dict[tuple, float]:
        return _least(_attention(row, "step") for row in self._rows("generation_attention") if _plain(row, "fp8"))

    @cached_property
    def _prefill(self) -> dict[tuple, float]:
        return _least(_attention(row, "isl") for row in self._rows("context_attention") if _plain(row) and row["step"] == "0")

    def _rows(self, op: str) -> Iterator[dict[str, str]]:
        for path in self.files[op]:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                yield from csv.DictReader(file)


def _files(source: Path, op: str) -> list[Path]:
    """The tables of one op: the file itself, or those of a folder, the H200's where it has several machines'."""
    if not source.is_dir():
        return [source] if source.name.endswith(f"_{op}.csv.gz") else []
    found = sorted(source.glob(f"*_{op}.csv.gz"))
    return [path for path in found if path.name.startswith(PREFIX)] or found


def _plain(row: dict[str, str], cache: str = "bfloat16") -> bool:
    return row["attn_dtype"] == "bfloat16" and row["kv_cache_dtype"] == cache and row["window_size"] == "0"


def _attention(row: dict[str, str], length: str) -> tuple:
    names = ("batch_size", length, "num_heads", "num_key_value_heads", "head_dim")
    return (*(int(row[name]) for name in names), float(row["latency"]))


def _least(entries: Iterator[tuple]) -> dict[tuple, float]:
    """(key ..., milliseconds) -> {key: seconds}, the least of equal keys."""
    out: dict[tuple, float] = {}
    for *key, milliseconds in entries:
        place = tuple(key)
        out[place] = min(milliseconds / 1e3, out.get(place, float("inf")))
    return out
