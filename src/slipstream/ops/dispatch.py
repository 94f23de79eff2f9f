"""Kernels: which candidate serves which op on a device, and why the others do not.

Owns the order of the candidates and the choice. Must not know how any op computes.
A candidate is a module of this package with NAME, VERSION, PROFILE (what its arithmetic is called) and
`offer(op, device)`, which answers the callable (for a "linear_*" op the LinearKernel) or Declined(reason). The first that
does not decline serves.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from slipstream.base.errors import BackendError
from slipstream.base.registry import load, unknown
from slipstream.ops.types import (
    EXPERTS_OPS,
    FAMILY_OPS,
    GATE_UP_OPS,
    LINEAR_FORMATS,
    LINEAR_OPS,
    OPS,
    ROUND_OPS,
    SPANS,
    Declined,
    ExpertsKernel,
    GateUpKernel,
    LinearKernel,
    Op,
    check_activations,
    gpu_only,
    linear_op,
)

CANDIDATES = ("triton", "cpu", "reference")  # modules of slipstream.ops, best first
DETERMINISTIC = "triton_deterministic"  # asked first where deterministic settings are wanted; "triton" then has no linear layers


@dataclass(frozen=True, slots=True)
class Choice:
    """Who serves an op.

    Attributes:
        op: name of the op; "linear_<format>" for the linear layers.
        chosen: the candidate that serves it.
        declined: (candidate, reason) of those asked before.
    """

    op: str
    chosen: str
    declined: tuple[tuple[str, str], ...] = ()


class Kernels:
    """The kernels of one device, one attribute per op (arguments: docs/numerics.md and ops/reference).

    `profile` names the arithmetic of all that serve, as "cpu-avx512.1" or "reference.1". An op of FAMILY_OPS or a linear
    format that nobody serves is missing until it is asked for; then it is a BackendError with the reasons. `recordings` counts runs of ops
    that were recorded, or run so as to be (ops/replay.py): the time that they took says nothing about those to come.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        deterministic: a row's bits must not depend on other rows. On the CPU that holds anyway.
        only: take this candidate for every op and no other (tests, diagnostics).
        activations: how many values of a row share an int8 scale where linear layers round them, or "fp8": a key of SPANS.

    Raises:
        InputError: `only` names no candidate, or there are no such scales.
        BackendError: no candidate asked serves some op on this device; lists their reasons.
    """

    embed: Op
    norm: Op
    rope_write: Op
    attention: Op
    gated: Op
    sample: Op
    logprobs: Op
    move: Op
    lay_out: Op
    walk: Op

    def __init__(self, device: str = "cpu", *, only: str | None = None, deterministic: bool = False, activations: str = "32"):
        if only is not None and only not in CANDIDATES:
            raise unknown("only", only, CANDIDATES)
        if activations not in SPANS:
            raise unknown("activations", activations, SPANS)
        candidates = [load("slipstream.ops", name) for name in (CANDIDATES if only is None else (only,))]
        linears = candidates
        if deterministic:
            candidates = [load("slipstream.ops", DETERMINISTIC), *candidates]
            linears = [module for module in candidates if module.NAME != "triton"]
        self.device, self.activations, self.recordings = device, activations, 0
        self._choices: list[Choice] = []
        self._linear: dict[str, LinearKernel] = {}
        for op in OPS + ROUND_OPS:
            setattr(self, op, self._choose(op, candidates))
        self._missing: dict[str, BackendError] = {}
        for op in FAMILY_OPS:
            try:
                setattr(self, op, self._choose(op, candidates))
            except BackendError as error:
                self._missing[op] = error
        for op in LINEAR_OPS:
            oracle = only is None and gpu_only(op)  # the reference serves these where it is asked for by name only
            try:
                self._linear[op] = self._choose(op, [module for module in linears if not (oracle and module.NAME == "reference")])
            except BackendError as error:
                self._missing[op] = error
        offers = [(op, module.offer(op, device)) for op in EXPERTS_OPS + GATE_UP_OPS for module in reversed(linears)]  # the best comes last
        self._whole: dict[str, ExpertsKernel | GateUpKernel] = {op: offer for op, offer in offers if not isinstance(offer, Declined)}
        serving = {choice.chosen for choice in self._choices}
        self._serving = {module.NAME: module for module in candidates if module.NAME in serving}
        self.profile = "+".join(module.PROFILE for module in self._serving.values())
        padded = {getattr(module, "padded", None) for module in self._serving.values()}
        self._padded = padded.pop() if len(padded) == 1 else None

    def linear(self, format: str) -> LinearKernel:
        """The linear layer for weights stored as `format`, with these activations' scales where it rounds them.

        Raises:
            InputError: no such format, or it has no such scales; names those that there are.
            BackendError: it is not served here; says why.
        """
        if format not in LINEAR_FORMATS:
            raise unknown("format", format, LINEAR_FORMATS)
        check_activations(format, self.activations)
        op = linear_op(format, self.activations)
        if op in self._missing:
            raise self._missing[op]
        return self._linear[op]

    def experts(self, format: str) -> ExpertsKernel | None:
        """What computes all experts of a layer at once; None where they go one after the other (`routed`)."""
        return self._whole.get(f"experts_{format}")

    def gate_up(self, format: str) -> GateUpKernel | None:
        """What makes and gates gate and up of such weights; None where they are a linear layer and the op `gated` (or its like), and where
        activations' scales were asked for: it has those of the format."""
        return self._whole.get(f"gate_up_{format}") if linear_op(format, self.activations) == linear_op(format) else None

    def choices(self) -> list[Choice]:
        """One Choice per op, for `slipstream doctor`."""
        return list(self._choices)

    def tape(self) -> Any:
        """What records ops and replays them (csrc/tape.h, ops/triton/graph.py); None where not all ops can be recorded (a linear format
        that is missing counts when it is asked for)."""
        makers = {getattr(module, "tape", None) for module in self._serving.values()}
        make = makers.pop() if len(makers) == 1 else None
        return None if make is None else make(self.device)

    @property
    def pads(self) -> bool:
        """Whether a tape holds for the number of rows only that it was recorded with, and steps are filled up to a few sizes."""
        return self._padded is not None

    def padded(self, rows: int) -> int:
        """Rows that a step of so many is run with: as many where tapes hold for any number."""
        return rows if self._padded is None else self._padded(rows)

    @property
    def shares(self) -> int:
        """Most rows of a step in which attention reads keys once that several requests share (AttentionRows.company); 0: it never does."""
        return min((getattr(module, "shares", lambda: 0)() for module in self._serving.values()), default=0)

    @property
    def mixes(self) -> int:
        """Least rows of a step in which attention asks for the rows of requests that have few (AttentionRows.few); 0: it never does."""
        return min((getattr(module, "mixes", lambda: 0)() for module in self._serving.values()), default=0)

    def recorded(self, op: str) -> bool:
        """Whether a tape can hold this op: not where its host part waits for what the device computes."""
        return getattr(getattr(self, op), "recorded", True)

    def _choose(self, op: str, candidates: list[ModuleType]) -> Any:
        declined = []
        for candidate in candidates:
            answer = candidate.offer(op, self.device)
            if not isinstance(answer, Declined):
                self._choices.append(Choice(op, candidate.NAME, tuple(declined)))
                return answer
            declined.append((candidate.NAME, answer.reason))
        reasons = "; ".join(f"{name}: {reason}" for name, reason in declined)
        raise BackendError(f"op {op!r} has no kernel on device {self.device!r}: {reasons}")

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_missing", {}):  # reached only for names that are no attribute
            raise self._missing[name]
        raise AttributeError(str(unknown("op", name, OPS + ROUND_OPS + FAMILY_OPS)))
