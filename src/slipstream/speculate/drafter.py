"""What a drafter is, and what it is made with. One file per drafter under drafters/, found by name; tests pass objects of their own.

Owns the words between drafters and those who run them. Knows neither the worker nor the scheduler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from slipstream.arch.heads import HeadSpec
from slipstream.arch.spec import ModelSpec
from slipstream.sampling.sampler import SampleRow, Voice
from slipstream.step.draft import DraftTree


@dataclass(frozen=True, slots=True)
class DraftContext:
    """A request that could use a draft.

    Attributes:
        request: the request's number.
        tokens: everything said so far, prompt first; the draft continues it. Read only, and the same list in every step.
        budget: nodes the draft may have, at least one.
        voice: how the request samples. A drafter that samples with it uses the noise with which its guess is checked, and
            is right more often.
        passes: calls of a model, one after the other, that pay; 0 if none does. A drafter that needs none need not look.
        prediction, prompt: tokens that the request says may follow its prompt; length of the prompt.
    """

    request: int
    tokens: Sequence[int]
    budget: int
    voice: Voice
    passes: int = 64
    prediction: Sequence[int] = ()
    prompt: int = 0


class Drafter(Protocol):
    """Guesses continuations. May be wrong in any way; never touches the engine's state.

    Attributes:
        max_draft: nodes of its largest draft; 0 if it never makes one.
    """

    max_draft: int

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        """One tree per context, empty where it has no guess; larger ones are cut to the budget."""

    def drop(self, request: int) -> None:
        """The request ended or was preempted: forget it. It may come back, as if it were new."""


WINDOW = 256  # hidden states of a request that are kept where a drafter lets more than twice as many wait; it begins anew behind the others


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states that one step has computed for tokens of a request that are there to stay.

    Attributes:
        request: the request's number.
        start: position of the first of them. What lies before it was seen in earlier steps, or never is: where the beginning of a
            text was found in the prefix cache it is not computed again, and the first states of the request begin behind it.
        rows: one row per token, the watcher's levels side by side. [tokens, levels * hidden] fp32
    """

    request: int
    start: int
    rows: Tensor


class Watcher(Drafter, Protocol):
    """A drafter that looks into the model that it drafts for.

    Attributes:
        levels: the hidden states that it wants: i is what layer i reads (0: the embeddings), the number of layers what the final
            norm reads, one more what the head reads.
    """

    levels: tuple[int, ...]

    def watch(self, states: Sequence[States]) -> None:
        """What a step has computed, of every request that took part: chunks of prompts and kept guesses as well. Called in every
        step, before `propose`; positions of one request follow each other until it is dropped."""


class Observer(Drafter, Protocol):
    """A drafter that learns from what the model says at the nodes of its drafts, right or wrong."""

    def observe(self, request: int, tree: DraftTree, sampled: Sequence[int]) -> None:
        """What was drawn in a step at the last token and then at each node of the request's draft, which may have been cut. Called before
        `propose`, where drafts are verified by match: other rules do not draw at every node. [1 + nodes]"""


class Rounding(Watcher, Protocol):
    """A watcher whose head can go on within a step, checked by the model each time (worker/rounds.py); its drafts say so (`again`).

    Attributes:
        beside: what runs the head (worker/beside.py); None if this one cannot.
        depth: tokens that it guesses ahead at most.
    """

    beside: "Forward | None"
    depth: int

    def begins(self, request: int, more: int) -> int | None:
        """Tokens of the request that the head has read, if these are all that there are and there is room for `more`; else None."""

    def went(self, request: int, tokens: int) -> None:
        """The head has read so many more, with true states, without the drafter."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of one request for a drafter's own model to read.

    Attributes:
        request: the request's number.
        start: position of the first of them; the model has read all before it.
        tokens: what it reads, at least one.
        ask: the token to draw after the last of them, or None.
        states: for a head (model/heads): the target's hidden states of the position before each token; None: what came out for the
            request's last token in the call before. All feeds of a call have some, or none has. [tokens, levels * hidden]
        further: for a head that guesses several tokens from one place (`Forward.ahead`): what to draw after `ask`, one token further
            on each.
    """

    request: int
    start: int
    tokens: Sequence[int]
    ask: SampleRow | None = None
    states: Tensor | None = None
    further: Sequence[SampleRow] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """A guess for a drafter's own model to read, below what it has read of a request: one node of a tree.

    Attributes:
        request: the request's number.
        start: tokens of the request that the model has read; all of them stand before the guess.
        path: where the guesses on the way to this one lie, this one last: their keys and values are at place `start` + each. Those before
            the last were read in calls before, of which the latest read the last but one; a model that is no head may read them in the
            same call.
        token: the guess.
        ask: the token to draw after it.
    """

    request: int
    start: int
    path: tuple[int, ...]
    token: int
    ask: SampleRow


class Forward(Protocol):
    """A model beside the one that is drafted for, with a KV cache of its own.

    Attributes:
        vocab: token ids are below it.
        max_rows: tokens that one call of `run` may read.
        max_asks: tokens that one call may draw.
        max_len: positions below this may be read.
        ahead: tokens that it guesses from one place.
    """

    vocab: int
    ahead: int
    max_rows: int
    max_asks: int
    max_len: int

    def reserve(self, request: int, length: int) -> bool:
        """Makes room for the first `length` positions of a request; False, and nothing done, if there is none."""

    def run(self, feeds: Sequence[Feed]) -> list[int]:
        """Reads. Room for it was reserved.

        Returns:
            The drawn tokens of the feeds that ask, in order.
        """

    def chain(self, feeds: Sequence[Feed], count: int) -> list[list[int]]:
        """Goes on by itself: reads what each feed says, draws a token, reads that, and so on. Room for all that is read was reserved.

        Args:
            feeds: one token each, with the first token to ask for; a head goes on from what came out in the call before.
            count: tokens to draw for each.

        Returns:
            Per feed the tokens drawn. [feeds][count]
        """

    def again(self) -> list[int]:
        """For each token that the last call drew: the one that would have been drawn if it could not be. Once more: the third choice."""

    def branch(self, branches: Sequence[Branch]) -> list[int]:
        """Reads guesses of trees. Room for their places was reserved; the call before was `run`, or another of these.

        Returns:
            The tokens drawn after them, in order.
        """

    def ranked(self, count: int) -> list[list[tuple[int, float]]]:
        """For each token that the last call drew: that one and those that `again` would give, `count` in all or fewer where there are no
        more, each with the logarithm of its share: how likely it is to be what will be drawn, the noise being known."""

    def drop(self, request: int) -> None:
        """Takes its room back."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a drafter is made in.

    Attributes:
        spec: the model that is drafted for.
        forward: the model that its file's `beside(options, source)` named, or the head that its `heads(options, source)` did, loaded; or
            the first layers of the model that is drafted for, as many as its `exit(options, layers)` said; None if there is no such.
        head: what that head is made of.
    """

    spec: ModelSpec
    forward: Forward | None = None
    head: HeadSpec | None = None
