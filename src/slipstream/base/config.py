"""Options: everything a user may choose, in one frozen dataclass. What follows from them is made by engine/resolve.py."""

import difflib
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slipstream.base.errors import InputError


@dataclass(frozen=True)
class Options:
    """The user's choices. None means: decide from the model and the machine, and say what was decided.

    Attributes:
        model: folder of a checkpoint, `dummy:SHAPE[:FORMAT]` for random weights of a named shape, None for the built-in model.
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads (None: physical cores).
        quant: weight format to convert to when loading (None: as stored; "int8", "int4", "q8_0", ...).
        activations: values of a row that share an int8 scale where weights are whole numbers, "32", "128" or "row": coarser ones are
            faster and lose more to channels that stick out (docs/benchmarks.md). On a GPU "fp8": e4m3 by one scale per row, for weights of
            four bits, instead of bf16.
        kv: type of the KV cache, "fp32", "bf16", on a CPU "int8", on a GPU "fp8" (None: bf16 for bf16 weights, else fp32).
        max_len: longest request, prompt and output, in tokens (None: what the model was made for, at most 8192).
        max_batch: requests that run at once.
        memory: bytes that weights, KV and scratch may take together (None: 90% of what is available).
        kv_tokens: tokens the KV pool holds (None: max_batch requests of max_len, or what fits into memory).
        page_size: tokens per KV page.
        max_step_tokens: rows of one step at most, all requests together.
        max_chunk: rows of one request in one step at most (None: max_step_tokens); a long prompt comes in such chunks.
        target_itl: milliseconds that may pass between two tokens of a text that somebody reads along, while prompts of others come in;
            a step's rows are cut to what is predicted to fit (None: 100 on a CPU, no target on a GPU; 0: no target).
        overlap: plan the next step while one runs, where its tokens need not be seen for that (None: on a GPU, which works by itself; a
            CPU has nothing from it).
        prefix_cache: keep the KV of earlier requests for later ones that begin alike.
        policy: order in which requests are served; a file of scheduler/policies.
        speculate: drafter: NAME or NAME:OPTION=VALUE,..., a file of speculate/drafters; or an object with its interface.
        verify: rule by which guesses are checked: NAME or NAME:OPTION=VALUE,..., a file of speculate/verify. With "match" the text is
            the one without guesses; with "reject" and "block" its distribution is; "typical" is lossy.
        control: decide in every step how many guesses pay; without it all that the drafter makes are checked.
        deterministic: on a GPU, keep the promise of the same text in every batch, at some cost in speed; a CPU always keeps it.
        kernels: "triton", "cpu" or "reference" to insist on one kernel set (None: the best that is there).
    """

    model: str | Path | None = None
    device: str = "cpu"
    threads: int | None = None
    quant: str | None = None
    activations: str = "32"
    kv: str | None = None
    max_len: int | None = None
    max_batch: int = 32
    memory: int | None = None
    kv_tokens: int | None = None
    page_size: int = 16
    max_step_tokens: int = 512
    max_chunk: int | None = None
    target_itl: float | None = None
    overlap: bool | None = None
    prefix_cache: bool = True
    policy: str = "fcfs"
    speculate: Any = "auto"
    verify: str = "match"
    control: bool = True
    deterministic: bool = False
    kernels: str | None = None

    def __post_init__(self):
        for name in ("threads", "max_len", "max_batch", "memory", "kv_tokens", "page_size", "max_step_tokens", "max_chunk"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r}: must be a whole number above 0")
        if self.target_itl is not None and not (_is_number(self.target_itl) and 0 <= self.target_itl < math.inf):
            raise InputError(f"target_itl={self.target_itl!r}: must be milliseconds, not negative; 0 is no target")
        choices = (
            ("kv", (None, "fp32", "bf16", "int8", "fp8")),
            ("kernels", (None, "triton", "cpu", "reference")),
            ("activations", ("32", "128", "row", "fp8")),
            ("overlap", (None, True, False)),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise InputError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(map(str, known))}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise InputError(f"device={self.device!r}: must be cpu, cuda or cuda:N")
        if self.kv == "int8" and self.device != "cpu":
            raise InputError(f"kv='int8': device={self.device!r} has no kernels for such a cache; take kv='fp8', which is as small")
        if self.kv == "fp8" and self.device == "cpu" and self.kernels in (None, "cpu"):
            raise InputError("kv='fp8': a CPU has no kernels for such a cache; take kv='int8', which is as small, or device='cuda'")
        if self.activations == "fp8" and self.device == "cpu" and self.kernels in (None, "cpu"):
            raise InputError("activations='fp8': a CPU has no kernels for such activations; leave it out, or take device='cuda'")
        if self.max_step_tokens < self.max_batch:
            raise InputError(
                f"max_step_tokens={self.max_step_tokens}: must be at least max_batch={self.max_batch}, so that every running request "
                "can have its row in a step; raise the one or lower the other"
            )

    @staticmethod
    def of(model: str | Path | None, options: dict[str, Any]) -> "Options":
        """Options from keyword arguments; an unknown one is an error that names the nearest known."""
        known = [field.name for field in fields(Options)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise InputError(f"{name}={options[name]!r}: there is no such option{hint}")
        return Options(model=model, **options)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
