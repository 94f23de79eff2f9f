"""The judge: verifies drafts by a rule that weighs them (speculate/verify), where `match` would only compare.

Owns the voices that drafts are made with, whose noise is their own, and the notes of what they drew. A step without a draft has
nothing to weigh and does not come here.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slipstream.sampling.distribution import Notes, distribution
from slipstream.sampling.noting import apart
from slipstream.sampling.sampler import Sampler, SampleRow, Voice
from slipstream.speculate.choose import Rule
from slipstream.speculate.weighing import KeyedDice, Weighed
from slipstream.step import Chunk, TokenLogprobs

Verdict = tuple[list[int], list[int], tuple[TokenLogprobs, ...] | None]


class Judge:
    """
    Args:
        rule: that weighs.
        sampler: whose processors and log-probabilities are used.
    """

    def __init__(self, rule: Rule, sampler: Sampler):
        self._rule, self._sampler = rule, sampler
        self._notes: dict[int, Notes] = {}

    def voice(self, request: int, voice: Voice, position: int) -> Voice:
        """The voice for the request's next draft, which begins at `position`."""
        own = apart(voice, position)
        self._notes[request] = own.notes
        return own

    def drop(self, request: int) -> None:
        self._notes.pop(request, None)

    def judge(self, chunk: Chunk, rows: Sequence[int], asks: Sequence[SampleRow], logits_of: Callable[..., Tensor]) -> Verdict:
        """Verifies a chunk's draft.

        Args:
            rows: of the step: the last trunk row, then each node. [1 + nodes]
            asks: what is to be drawn there.
            logits_of: makes [n, vocab] of some of these rows, at most sampler.max_rows.

        Returns:
            kept nodes; their tokens followed by one more; the log-probabilities of these, where they are asked for.
        """
        params, target, raw = asks[0].voice.params, [], []
        for begin in range(0, len(rows), self._sampler.max_rows):
            block = slice(begin, begin + self._sampler.max_rows)
            logits = logits_of(rows[block])
            if params.logprobs is not None:
                raw.append(logits.clone())
            self._sampler.process(logits, asks[block])
            target.extend(distribution(line, params) for line in logits)
        dice = KeyedDice(asks[0].voice.seed, asks[0].voice.sample, asks[0].position)
        kept, tokens = self._rule.walk(Weighed(chunk.draft, target, self._notes[chunk.request]), dice)
        if params.logprobs is None:
            return kept, tokens, None
        lines = torch.cat(raw)[[0, *(node + 1 for node in kept)]]  # a token's entry lies at its parent's row
        return kept, tokens, tuple(self._sampler.score(lines, tokens, [params.logprobs] * len(tokens)))
