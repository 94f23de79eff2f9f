"""Request: one text in the making, and Event: what a step added to it. State only; the scheduler acts on it."""

from dataclasses import dataclass, field
from enum import Enum

from slipstream.cache import PageTable
from slipstream.step import Chunk, DraftTree, SamplingParams, TokenLogprobs
from slipstream.step.draft import EMPTY

PREDICTED = 16  # nodes of a draft taken from a request's own prediction


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One text in the making.

    Invariant: the cache holds exactly tokens[:cached], and what steps under way are adding to it. As far as the next step is concerned they
    are over: it begins at `next`, in a text of `length` tokens, the last of which may not be known yet (step/plan.py, UNKNOWN).

    Attributes:
        number: its name, unique among the living, given by the caller.
        tokens: the prompt, then what was added to it. The list is the scheduler's from `add` on.
        params: what was asked for.
        seed, sample: key of the noise.
        arrival: time of arrival in seconds of any clock; the first key of fcfs.
        priority: for policies that look at it; the smaller, the sooner.
        leader: number of the first of n samples of one prompt, whose pages this one shares; None if it is that one.
        ends: end-of-text ids.
        banned: token sequences of params.bad_words.
        prediction: params.prediction as tokens.
        streamed: whether somebody reads along; the time between its tokens matters then.

    Set by the scheduler:
        prompt_len: how many tokens are prompt.
        limit: length that the text cannot exceed.
        unedited: whether tokens are drawn from its logits as they are, so that the host need not see one before the next is drawn.
        state, cached, next, length: see above; cached and next are 0 while waiting.
        scored: prompt logprobs delivered; the next one wanted is that of tokens[scored + 1].
        table: its pages, while running.
        draft: what may come next, according to the drafter.
        planned: its chunks in the steps under way, in order.
        origin: the leader, as long as its pages are waited for.
    """

    number: int
    tokens: list[int]
    params: SamplingParams
    seed: int = 0
    sample: int = 0
    arrival: float = 0.0
    priority: int = 0
    leader: int | None = None
    ends: tuple[int, ...] = ()
    banned: tuple[tuple[int, ...], ...] = ()
    prediction: tuple[int, ...] = ()
    streamed: bool = True

    prompt_len: int = field(default=0, init=False)
    limit: int = field(default=0, init=False)
    unedited: bool = field(default=True, init=False)
    state: State = field(default=State.WAITING, init=False)
    cached: int = field(default=0, init=False)
    next: int = field(default=0, init=False)
    length: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    table: PageTable | None = field(default=None, init=False)
    draft: DraftTree = field(default=EMPTY, init=False)
    planned: list[Chunk] = field(default_factory=list, init=False)
    origin: "Request | None" = field(default=None, init=False)

    @property
    def owed(self) -> int:
        """Tokens that the next step has to compute: one while it decodes."""
        return self.length - self.next

    @property
    def over(self) -> bool:
        """Whether the steps under way bring it to its end, if it does not end before."""
        return bool(self.planned) and (self.owed == 0 or self.length >= self.limit > self.prompt_len)

    def begin(self, chunk: Chunk, passes: int) -> bool:
        """A step with this chunk is under way. Returns whether it is known how many tokens that brings, and that nobody on the host has to
        see them before the next step."""
        self.planned.append(chunk)
        self.draft = EMPTY
        self.next += len(chunk.trunk)
        if passes > 1:  # those behind the end of the text write where its last token lies
            self.next = min(self.next + passes - 1, self.limit - 1)
        if chunk.sample:
            self.length = min(self.length + passes, self.limit)
        return self.unedited and not chunk.draft.tokens and not chunk.draft_budget and chunk.score is None

    def leave(self) -> None:
        """It gives up its seat and its pages, and what steps under way bring for it."""
        self.state, self.table, self.cached, self.draft = State.WAITING, None, 0, EMPTY
        self.planned.clear()
        self.settle()

    def settle(self) -> None:
        """The oldest chunk under way is over, or the request is begun anew."""
        if not self.planned:
            self.next, self.length = self.cached, len(self.tokens)

    def longest_draft(self, most: int) -> int:
        """Nodes that a draft of it may have, if those of the drafter may have `most`."""
        return max(most, PREDICTED) if self.prediction else most

    @property
    def pages(self) -> list[int]:
        """Pages held, in order; empty while waiting."""
        return self.table.pages if self.table is not None else []

    @property
    def scores_wanted(self) -> bool:
        """Whether prompt logprobs are still to be delivered. The leader's serve all samples of a prompt."""
        return self.params.prompt_logprobs is not None and self.leader is None and self.scored < self.prompt_len - 1


@dataclass(frozen=True, slots=True)
class Event:
    """What a step added to a request.

    Attributes:
        request: the request's number.
        tokens: new tokens, an end token included.
        logprobs: one per token of `tokens`, or None.
        scores: prompt logprobs, those of the prompt's second token first, in as many events as it takes; or None.
        finish_reason: None while the request goes on, else "stop", "length" or what `watch` said.
        predicted: tokens of the request's own prediction that were checked in this step, and how many of them were right.
    """

    request: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    scores: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str | None = None
    predicted: tuple[int, int] = (0, 0)
