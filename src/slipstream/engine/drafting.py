"""From the option `speculate` to a drafter, with the model that it runs beside the one it drafts for. Owns how that model is loaded
and what memory it takes; what it is used for is the drafter's affair.
"""

from pathlib import Path

from slipstream.arch.spec import ModelSpec
from slipstream.base.config import Options
from slipstream.cost import kv_bytes, scratch_bytes, weights_bytes
from slipstream.model.build import DUMMY, open_weights
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.sampling.sampler import Sampler
from slipstream.speculate.choose import choose
from slipstream.speculate.drafter import Around, Drafter
from slipstream.weights.hub import locate
from slipstream.worker.beside import Beside
from slipstream.worker.pool import KVPool

ROWS = 256  # tokens that the small model reads in one call at most


class Drafting:
    """What was chosen; `make` loads it, once it is known that there is room.

    Args:
        options: the user's; `speculate` names a drafter, or is one.
        source: the model that is drafted for.
        max_len: the longest request, as far as it is known yet.

    Attributes:
        max_draft: nodes of the largest draft.
        memory: bytes of the model beside, and what it has beside each page of KV.

    Raises:
        InputError, CheckpointError: a drafter or model cannot be used.
    """

    def __init__(self, options: Options, source: Path | str, kernels: Kernels, max_len: int):
        self._options, self._kernels = options, kernels
        self._choice = choose(options.speculate) if isinstance(options.speculate, str) else None
        self.max_draft = self._choice.max_draft if self._choice is not None else options.speculate.max_draft
        beside = self._choice.beside(source) if self._choice is not None else None
        self._weights, self.memory = None, (0, 0)
        if beside is None:
            return
        self._weights = open_weights(beside if str(beside).startswith(DUMMY) else locate(beside), kernels.device)
        spec = self._weights.spec
        self._format = self._weights.as_stored if kernels.device == "cpu" else self._weights.format
        self._max_len = min(spec.max_len, max_len)
        self._kv = "bf16" if self._weights.format == "bf16" else "fp32"
        self._rows = min(ROWS, options.max_step_tokens)
        scratch = scratch_bytes(spec, self._rows, options.max_batch, self._max_len, options.max_batch, options.page_size)
        fixed = weights_bytes(spec, self._format, self._weights.format) + scratch
        self.memory = fixed, kv_bytes(spec, self._kv, options.page_size)

    def make(self, spec: ModelSpec, pages: int) -> Drafter:
        """The drafter, its model loaded.

        Args:
            spec: the model that is drafted for.
            pages: of its KV pool; the model beside gets as many.
        """
        if self._choice is None:
            return self._options.speculate
        return self._choice.make(Around(spec, self._beside(pages) if self._weights is not None else None))

    def _beside(self, pages: int) -> Beside:
        requests, weights = self._options.max_batch, self._weights
        decoder = Decoder(weights.spec, weights, self._kernels, self._rows, requests, format=self._format, max_len=self._max_len)
        pool = KVPool(decoder.pool_shape(pages, self._options.page_size), self._kv, self._kernels)
        return Beside(decoder, pool, Sampler(self._kernels, requests), requests, self._rows)
