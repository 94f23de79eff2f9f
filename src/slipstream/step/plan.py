"""Plan and Result: what one step shall do, and what came of it. Plain data; integers and tuples only.

Rows of a request in a step: `trunk` rows are known tokens whose KV is not cached yet, `branch` rows are the nodes of a
draft below the last trunk row. Chunked prefill is a long trunk, decoding a trunk of one, speculation a trunk of one
with branches; nothing in a plan says which of them it is.

    positions   0 ........ start | start ... start+u-1 | start+u ... (node i writes its KV at slot start+u+i)
                cached           | trunk               | branch
"""

from dataclasses import dataclass, field
from typing import Protocol

from slipstream.step.draft import EMPTY, DraftTree
from slipstream.step.params import SamplingParams

UNKNOWN = -1  # a token that is drawn in the step before, which may be under way still


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that begins to run (again): what the device side must know of it, sent once.

    Attributes:
        request: the request's number, its name in every later plan.
        tokens: all tokens known so far, prompt first.
        prompt: how many of them are prompt.
        seed, sample: key of the noise: 64-bit seed, index among the n samples of one prompt.
        banned: token sequences of `params.bad_words`.
        ends: end-of-text ids that `min_tokens` must hold back.
        prediction: tokens that its text may be, after the prompt.
    """

    request: int
    tokens: tuple[int, ...]
    prompt: int
    params: SamplingParams
    seed: int
    sample: int = 0
    banned: tuple[tuple[int, ...], ...] = ()
    ends: tuple[int, ...] = ()
    prediction: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows of one request in one step.

    Attributes:
        request: the request's number.
        start: position of the first trunk row = number of cached tokens.
        trunk: known tokens to compute, at least one; or (UNKNOWN,), if the last plan was followed before its result was known. [u]
        draft: guessed tokens below the last trunk row.
        pages: page ids that cover positions 0 .. start + u + nodes - 1, in order.
        sample: whether the last trunk row yields a token; False while more of the prompt is to come.
        score: first trunk row whose logits score the token after it (prompt logprobs); u means none.
        draft_budget: how many nodes the next draft may have.
        passes: how many calls of a model, one after the other, it may take; 0 where only guesses that cost next to nothing pay.
    """

    request: int
    start: int
    trunk: tuple[int, ...]
    pages: tuple[int, ...]
    sample: bool
    draft: DraftTree = EMPTY
    score: int | None = None
    draft_budget: int = 0
    passes: int = 0

    @property
    def rows(self) -> int:
        return len(self.trunk) + len(self.draft)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step of all requests.

    Attributes:
        admitted: requests that run for the first time since they (re)entered.
        chunks: their rows, in the order of the batch.
        copies: (from page, to page) whole-page copies to make before the forward pass (copy-on-write tails).
        released: requests that ended, were aborted or were preempted since the last plan.
        passes: how often it may be run, each pass on the tokens that the one before drew. Above 1 every chunk is one row that samples,
            without a score, and its pages cover as many positions, or all that its text may have: passes behind the last of these mean
            nothing. Either no chunk has a draft, and it is run exactly so often, or all have chains of one length, for as many rounds of
            which there are pages: a pass then checks what was guessed after the one before; whoever cannot do that runs it once.
    """

    admitted: tuple[Admission, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    released: tuple[int, ...] = ()
    passes: int = 1

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one token and of the likeliest ones at its position, from the raw distribution."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one chunk.

    Attributes:
        request: the request's number.
        tokens: kept draft tokens, then the newly sampled one; empty if the chunk did not sample; those of all passes.
        logprobs: one entry per token of `tokens`, or None.
        scores: prompt logprobs of the tokens after the scored trunk rows, or None.
        draft: the drafter's guess for the next step, below the last of `tokens`.
        rounds: how many of `tokens` each pass brought, where several checked guesses.
    """

    request: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    scores: tuple[TokenLogprobs, ...] | None = None
    draft: DraftTree = EMPTY
    rounds: tuple[int, ...] = ()

    @property
    def said(self) -> tuple[int, ...]:
        """Tokens of each check, of a step in which guesses were checked."""
        return self.rounds or (len(self.tokens),)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a plan.

    Attributes:
        outcomes: in the order of the plan's chunks.
        drafting: seconds of the step in which the next drafts were made.
        passes: how often it was run.
        steady: whether steps like it will take as long; not where its ops had to be prepared first.
    """

    outcomes: tuple[Outcome, ...] = field(default=())
    drafting: float = 0.0
    passes: int = 1
    steady: bool = True


class Executor(Protocol):
    """Whoever runs plans: this process, many ranks, or a simulator on a virtual clock."""

    def launch(self, plan: Plan) -> None:
        """Starts the step; returns as soon as the host may go on."""

    def finish(self) -> Result:
        """Waits for the oldest launched step and returns its result."""

    def reset(self) -> None:
        """Forgets all requests and steps after a step failed; the content of pages stays."""

    def close(self) -> None:
        """Frees the device."""
