"""From the option `speculate` to a drafter, with the model that it runs beside the one it drafts for, or the head on it. Owns how that
is loaded and what memory it takes; what it is used for is the drafter's affair.
"""

from dataclasses import replace
from pathlib import Path

from slipstream.arch.heads import HeadSpec
from slipstream.arch.spec import ModelSpec
from slipstream.base import registry
from slipstream.base.config import Options
from slipstream.cost import kv_bytes, scratch_bytes, weights_bytes
from slipstream.engine.trial import try_head
from slipstream.model.build import DUMMY, open_weights
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.sampling.noting import NotingSampler
from slipstream.sampling.sampler import Sampler
from slipstream.scheduler.passes import COUNTS
from slipstream.speculate.choose import Rule, choose
from slipstream.speculate.drafter import WINDOW, Around, Drafter
from slipstream.weights.heads import open_head
from slipstream.weights.hub import locate
from slipstream.weights.source import Weights
from slipstream.worker.beside import Beside
from slipstream.worker.pool import KVPool

HEADS = "slipstream.model.heads"
ROWS = 256  # tokens that the small model reads in one call at most


class Drafting:
    """What was chosen; `make` loads it, once it is known that there is room.

    Args:
        options: the user's; `speculate` names a drafter, or is one.
        source, spec: the model that is drafted for.
        kernels: who computes.
        max_len: the longest request, as far as it is known yet.
        rule: by which drafts are verified.

    Attributes:
        max_draft: nodes of the largest draft.
        levels: of the hidden states that the drafter wants to see.
        memory: bytes of the model beside, and what it has beside each page of KV.

    Raises:
        InputError, CheckpointError: a drafter or model cannot be used.
    """

    def __init__(self, options: Options, source: Path | str, spec: ModelSpec, kernels: Kernels, max_len: int, rule: Rule):
        self._options, self._kernels = options, kernels
        self._sampler = NotingSampler if rule.weighs else Sampler
        self._choice = choose(options.speculate) if isinstance(options.speculate, str) else None
        self.max_draft = self._choice.max_draft if self._choice is not None else options.speculate.max_draft
        self.levels = getattr(options.speculate, "levels", ())
        self._weights: Weights | None = None
        self._head: HeadSpec | None = None
        self._exit = 0  # layers of the target that guess by themselves
        self.memory = 0, 0
        if self._choice is not None:
            self._open(source, spec, max_len)

    def _open(self, source: Path | str, spec: ModelSpec, max_len: int) -> None:
        """Opens what the drafter runs, if it runs anything, and counts its memory."""
        options, kernels = self._options, self._kernels
        beside, heads = self._choice.beside(source), self._choice.heads(source)
        self._exit = self._choice.exit(len(spec.layers))
        if beside is not None:
            self._weights = open_weights(beside if str(beside).startswith(DUMMY) else locate(beside), kernels.device)
        elif heads is not None:
            self._head, self._weights = open_head(heads[1], heads[0], spec, kernels.device)
            self.levels = self._head.levels
        elif not self._exit:
            return
        own = replace(spec, layers=spec.layers[: self._exit]) if self._exit else self._weights.spec
        self._max_len = min(own.max_len, max_len)
        self._kv = "bf16" if self._exit or self._weights.format == "bf16" else "fp32"
        self._rows = min(ROWS, options.max_step_tokens)
        self._asks = options.max_batch * max(self._choice.asks, self._head.ahead if self._head is not None else 1)
        fixed = scratch_bytes(own, self._rows, self._asks, self._max_len, options.max_batch, options.page_size)
        if self._head is not None:
            fixed += head_bytes(self._head, self._weights.format, self._rows, options.max_step_tokens, options.max_batch)
        elif not self._exit:
            fixed += weights_bytes(own, self._weights.as_stored, self._weights.format)
        self.memory = fixed, kv_bytes(own, self._kv, options.page_size) if self._head is None or self._head.cached else 0

    def make(self, target: Decoder, pages: int) -> Drafter:
        """The drafter, its model loaded.

        Args:
            target: the model that is drafted for; from now on it watches what the drafter wants to see.
            pages: of its KV pool; the model beside gets as many.
        """
        if self.levels:
            target.watch(self.levels)
        if self._choice is None:
            return self._options.speculate
        runs = self._weights is not None or self._exit
        return self._choice.make(Around(target.spec, self._beside(target, pages) if runs else None, self._head))

    def _beside(self, target: Decoder, pages: int) -> Beside:
        requests, weights, kernels = self._options.max_batch, self._weights, self._kernels
        sizes = self._rows, self._asks
        if self._exit:
            decoder = target.first(self._exit, *sizes, self._max_len)
        elif self._head is None:
            decoder = Decoder(weights.spec, weights, kernels, *sizes, format=weights.as_stored, max_len=self._max_len)
        else:
            made = registry.load(HEADS, self._head.file).Head
            decoder = made(self._head, weights, target, kernels, *sizes, self._max_len)
            try_head(decoder, target, kernels, self._kv, self._options.page_size, self._rows)
        pool = KVPool(decoder.pool_shape(pages, self._options.page_size), self._kv, kernels)
        return Beside(decoder, pool, self._sampler(kernels, self._asks), requests, self._rows)


def head_bytes(head: HeadSpec, format: str, rows: int, step_rows: int, requests: int) -> int:
    """What a head takes beside the scratch of its layers: weights, the states that it reads and those that wait for it, and what the
    target keeps for it in a step, of one pass or of several.

    Args:
        format: of its matrices, "bf16" or "fp32".
        rows: of the largest call of the head; step_rows: of the largest step of the target.
        requests: that may run at a time.
    """
    sizes = dict.fromkeys(("linear", "embedding"), 2 if format == "bf16" else 4)
    weights = sum(parameter.size * sizes.get(parameter.role, 4) for parameter in head.tensors())
    width = len(head.levels) * head.body.hidden
    inside = rows * (2 * width + (1 + head.ahead) * head.body.hidden)  # and the states of a round, worker/rounds.py
    waiting = 2 * WINDOW if head.cached else 1  # a head without keys and values has nothing to catch up with
    return weights + 4 * (inside + (step_rows + requests * (waiting + COUNTS[0])) * width)
