"""Controller: how many guesses pay. Owns what is known of their quality and of the cost of making them; how long a step takes it asks
the pace. It never changes a text, only how far a step reaches.

    goodput(plan) = (requests + sum of the reach of the nodes that are checked) / (seconds of the step + seconds of guessing)

`share` picks the nodes of all drafts at hand that make this greatest, none included. `passes` says how long a model may draft for the
next step; drafts that cost next to nothing are made first, and cut afterwards.

Reach is the probability that a node and all above it are right. It is counted, not claimed: by the kind of the draft and the depth of
the node, and beside that by request. First belief is hopeful, and a few failures end the trial. Every now and then a step goes
further than what seems to pay (where nothing does: one node, or one of each request): what was given up, and what was never tried, is
seen again that way.

Guesses that cost next to nothing still cost the host its time, as much as a small model's step has to spare. So where none was worth
checking, requests are asked for none for a step, then for two, four, eight; a request for which there was none, for up to four. And a
model that has cost more than it saved, whatever was expected of it, sleeps (purse.py).
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median

from slipstream.cost import Pace, Work
from slipstream.cost.pace import EDGES
from slipstream.scheduler.purse import Purse
from slipstream.scheduler.request import Request
from slipstream.step import Chunk, DraftTree, Outcome
from slipstream.step.draft import ROOT

HOPE = 0.6  # that a guess of which nothing is known is right
FIRM = 2.0  # observations that a first belief is worth
OWN = 8.0  # observations of all requests that outweigh one of its own
FADE = 0.98  # weight of an observation against the next one
FORGET = 0.997  # and against one a step later
LEAST = 0.1  # reach below which a node is not looked at: predictions are not that exact
MARGIN, BEGIN = 1.05, 1.2  # by which drafts must be better than none; those of a model that has the text to read first
KEEP = 16  # steps for which a prediction, or the decision that no model drafts, is kept
FIRST = 2  # passes of a model of which nothing is known
SHORT = 4  # steps for which the length of drafts is kept
PROBE = 32  # steps from one that goes further to the next
LOOK, BLANK = 8, 4  # steps at most without a guess for a request where no guesses are worth checking; for one that had none
BREADTH = 8  # requests that are tried together
SELDOM, NEVER = 128, 4096  # the most where that never brings anything: for nodes, and for a model, which has to read the text first


@dataclass(slots=True)
class Belief:
    """How often guesses of one sort were right. Weights fade with each observation and with time."""

    right: float = 0.0
    seen: float = 0.0
    step: int = 0

    def add(self, right: bool, step: int) -> None:
        kept = FADE * FORGET ** (step - self.step)
        self.right, self.seen, self.step = self.right * kept + right, self.seen * kept + 1, step

    def mean(self, first: float, step: int) -> float:
        kept = FORGET ** (step - self.step)
        return (self.right * kept + FIRM * first) / (self.seen * kept + FIRM)


NOTHING = Belief()
CHAIN = tuple(range(ROOT, 127))  # parents of a chain


@dataclass(slots=True)
class Sort:
    """Drafts of one kind: belief by depth, 1 first."""

    depths: list[Belief] = field(default_factory=list)

    def at(self, depth: int) -> Belief:
        while len(self.depths) < depth:
            self.depths.append(Belief())
        return self.depths[depth - 1]


@dataclass(slots=True)
class Trial:
    """When to go further than what seems to pay: ever more seldom, as long as nothing comes of it."""

    most: int
    pause: int = PROBE
    due: int = PROBE
    tries: int = 0

    def done(self, step: int, hopeless: bool) -> None:
        self.tries += 1
        self.pause = min(2 * self.pause, self.most) if hopeless else PROBE
        self.due = step + self.pause

    def hope(self, step: int) -> None:
        """There is something after all: look again at once."""
        if self.pause > PROBE:
            self.pause, self.due = PROBE, step + 2


@dataclass(slots=True)
class Rest:
    """A request is asked for no guess before step `due`; `pause` is how long the rest was."""

    pause: int = 0
    due: int = 0


@dataclass(slots=True)
class Account:
    """What a model's guesses cost and brought in one step.

    Attributes:
        requests, plain: of the step; seconds that one without guesses takes.
        checking, making: seconds for the guesses at hand, and for the next.
        passes: that were made.
        kept: guesses that were right.
    """

    requests: int = 0
    plain: float = 0.0
    checking: float = 0.0
    making: float = 0.0
    passes: int = 0
    kept: int = 0


class Controller:
    """
    Args:
        pace: predicts the time of a step.
        max_draft: nodes of a draft at most.
    """

    def __init__(self, pace: Pace, max_draft: int):
        self._pace, self._max = pace, max_draft
        self._step = 0
        self._more, self._longer = Trial(SELDOM), Trial(NEVER)  # nodes; passes of a model
        self._all = Belief()
        self._sorts: dict[str, Sort] = {}
        self._own: dict[int, dict[str, Belief]] = {}
        self._rests: dict[int, Rest] = {}
        self._means: dict[str, list[float]] = {}  # of this step
        self._times: dict[tuple[int, int, int, int], tuple[int, float]] = {}  # arguments of _seconds -> (step, what it said)
        self._costs: deque[float] = deque(maxlen=7)  # seconds of a pass
        self._model: str | None = None  # kind of the drafts that take passes
        self._purse, self._account = Purse(), Account()
        self._allowed = 0  # passes, for the drafts that are being made
        self._quiet = 0  # step before which no model drafts
        self._trying = False  # whether the drafts at hand were made to see what comes of them
        self._length, self._decided = max_draft, (-KEEP, 0)  # passes; (step, requests) when that was decided

    # A step is planned

    @property
    def idle(self) -> bool:
        """Whether there is nothing to decide as long as there is no draft at hand: no model drafts, or it was decided that none does."""
        return self._model is None or self._step < self._quiet

    def skip(self) -> int:
        """A step in which there is nothing to decide. Returns how long a model may draft, should there be one after all."""
        self._step += 1
        self._allowed = min(self._max, FIRST) if self._model is None else 0
        return self._allowed

    def looks(self, number: int) -> bool:
        """Whether a guess that costs next to nothing is to be made for the request's next step."""
        rest = self._rests.get(number)
        return rest is None or self._step >= rest.due

    def share(
        self, drafting: Sequence[Request], requests: int, rows: int, context: int, most: int, queue: bool = True
    ) -> dict[int, int]:
        """How many nodes of each draft are checked.

        Args:
            drafting: requests that have a draft at hand and may use it.
            requests: that will say something in this step.
            rows: trunk rows of the step.
            context: tokens of a request, on average.
            most: nodes that the step has room for.
            queue: whether others wait for a seat.

        Returns:
            request's number -> nodes; those without any are not named.
        """
        self._settle()
        self._step += 1
        self._means.clear()
        each = {request.number: self._reaches(request.number, request.draft) for request in drafting}
        nodes = sorted(((reach, number) for number, reaches in each.items() for reach in reaches), reverse=True)[:most]
        worth = 1.0 if queue or not nodes else self._worth([sum(reaches) for reaches in each.values()], requests, context)
        reaches = [reach * worth for reach, _ in nodes if reach]
        best = self._best(reaches, requests, rows, context)[0] if reaches else 0
        paying = best > 0
        if nodes and (self._step >= self._more.due or self._trying):
            self._more.done(self._step, hopeless=not best)
            best = 2 * best or (1 if self._more.tries % 2 else min(requests, BREADTH))
        self._trying = False
        out: dict[int, int] = {}
        for _, number in nodes[:best]:
            out[number] = out.get(number, 0) + 1
        for request in drafting:
            if not paying:
                self._rest(request.number, LOOK)
            elif request.number in out:
                self._rests.pop(request.number, None)
        if self._model is not None:
            self._open(drafting, out, requests, rows, context)
        return out

    def _rest(self, number: int, most: int) -> None:
        """Nothing came of looking: the next look has time. All look in the same steps, so that most steps have nothing to decide."""
        rest = self._rests.get(number)
        if rest is None:
            rest = self._rests[number] = Rest()
        rest.pause = min(2 * rest.pause or 1, most)
        rest.due = (self._step + 1) // rest.pause * rest.pause + rest.pause

    def passes(self, numbers: Sequence[int], context: int) -> int:
        """How many tokens a model may draft for each of these requests, which will say something in the next step."""
        self._allowed = self._passes(numbers, context)
        if not self._allowed:
            self._quiet = max(min(self._step + KEEP, self._longer.due), self._purse.wakes)
        return self._allowed

    def _passes(self, numbers: Sequence[int], context: int) -> int:
        if self._model is None:
            return min(self._max, FIRST)
        if self._step < self._purse.wakes:
            return 0
        if self._step >= self._longer.due:
            self._longer.done(self._step, hopeless=not self._length)
            self._trying = True
            return min(self._max, max(1, 2 * self._length))
        step, requests = self._decided
        if requests == len(numbers) and self._step - step < (SHORT if self._length else KEEP):
            return self._length
        cost, count = median(self._costs) if self._costs else 0.0, len(numbers)
        chains = [self._chain(number, self._model, self._max) for number in numbers]
        margin = MARGIN if self._length else BEGIN
        self._decided, self._length = (self._step, count), 0
        if not any(chain[0] for chain in chains):
            return 0
        top = self._best([], count, count, context)[1] * margin
        for length in range(1, max(map(len, chains)) + 1):
            reaches = sorted((reach for chain in chains for reach in chain[:length]), reverse=True)
            goodput = self._best(reaches, count, count, context, length * cost)[1]
            if goodput > top:
                self._length, top = length, goodput
        return self._length

    def _best(self, reaches: list[float], requests: int, rows: int, context: int, spent: float = 0.0) -> tuple[int, float]:
        """(nodes, goodput) of the best that can be made of nodes with this reach, the likeliest first, `spent` seconds aside."""
        octave = context.bit_length()
        best, top = 0, requests / (self._seconds(requests, rows, 0, octave) + spent)
        least, gains = top * MARGIN, list(accumulate(reaches, initial=float(requests)))
        edges = EDGES[bisect_right(EDGES, rows) : bisect_left(EDGES, rows + len(reaches))]  # between them time hardly changes
        for count in (*(edge - rows for edge in edges), len(reaches)) if reaches else ():
            goodput = gains[count] / (self._seconds(requests, rows, count, octave) + spent)
            if goodput > max(top, least):
                best, top = count, goodput
        return best, top

    def _worth(self, gains: Sequence[float], requests: int, context: int) -> float:
        """Of a token that comes early, against one of a step in which all have theirs. Where nobody waits for the seat, a request that
        gets ahead of the others makes the rest of their steps smaller by a row, not fewer; only what all gain makes them fewer."""
        if requests == 1:
            return 1.0
        one, all_ = (self._seconds(count, count, 0, context.bit_length()) for count in (1, requests))
        row = min(1.0, max(0.0, all_ - one) / (requests - 1) * requests / all_)
        even = min(gains) * requests / sum(gains) if len(gains) == requests and sum(gains) else 0.0
        return row + (1 - row) * even

    def _seconds(self, requests: int, trunk: int, nodes: int, octave: int) -> float:
        """Of a step with so many rows; the prediction is made anew every few steps."""
        key = requests, trunk, nodes, octave
        step, seconds = self._times.get(key, (-KEEP, 0.0))
        if self._step - step >= KEEP:
            if len(self._times) > 4096:
                self._times.clear()
            context = max(1, 3 << octave >> 2)  # the middle of the octave
            rows, read = trunk + nodes, requests * context + trunk + nodes
            seconds = self._pace.predict(Work(rows, requests + nodes, read, max(read, rows * context)))
            if nodes:  # more rows never take less; that one cell was measured in a worse moment than the next says nothing
                seconds = max(seconds, self._seconds(requests, trunk, 0, octave))
            self._times[key] = self._step, seconds
        return seconds

    def _reaches(self, number: int, draft: DraftTree) -> list[float]:
        """Reach of a draft's nodes by depth; where several lie side by side they share it."""
        if draft.parents == CHAIN[: len(draft)]:  # as most are
            return self._chain(number, draft.kind, min(len(draft), self._max))
        depths = draft.depths()
        chain = self._chain(number, draft.kind, max(depths))
        return [chain[depth - 1] / depths.count(depth) for depth in depths if depth <= len(chain)][: self._max]

    def _chain(self, number: int, kind: str, length: int) -> list[float]:
        means = self._means.get(kind)
        if means is None or len(means) < length:
            means = self._means[kind] = self._general(kind, max(length, self._max))
        own = self._own.get(number, {}).get(kind, NOTHING)
        kept = FORGET ** (self._step - own.step)
        right, seen = own.right * kept, own.seen * kept + OWN
        out, reach = [], 1.0
        for mean in means[:length]:
            reach *= (right + OWN * mean) / seen
            if reach < LEAST:
                break
            out.append(reach)
        return out or [0.0]  # one node is there to be tried

    def _general(self, kind: str, length: int) -> list[float]:
        """Probability that a node is right if all above it are, by depth, over all requests."""
        sort, mean = self._sorts.get(kind) or Sort(), self._all.mean(HOPE, self._step)
        out = []
        for depth in range(1, length + 1):
            mean = sort.at(depth).mean(mean, self._step)
            out.append(mean)
        return out

    # What a model costs

    def _open(self, drafting: Sequence[Request], out: dict[int, int], requests: int, rows: int, context: int) -> None:
        """A new account, with what it costs to check the model's nodes of this step."""
        own = sum(out.get(request.number, 0) for request in drafting if request.draft.kind == self._model)
        account, octave = self._account, context.bit_length()
        account.requests, account.plain = requests, self._seconds(requests, requests, 0, octave)
        if own:
            longer = self._seconds(requests, rows, sum(out.values()), octave) - self._seconds(requests, rows, 0, octave)
            account.checking = longer * own / sum(out.values())

    def _settle(self) -> None:
        account, self._account = self._account, Account()
        if account.plain and (account.making or account.checking):
            usual = account.checking + account.passes * (median(self._costs) if self._costs else 0.0)
            spent = account.making + account.checking
            self._purse.settle(self._step, account.kept / account.requests, spent / account.plain, usual / account.plain)

    # What came of it

    def learn(self, chunk: Chunk, outcome: Outcome) -> None:
        """Takes note of which nodes of a draft were right."""
        if outcome.draft.passes:
            self._model = outcome.draft.kind
        if chunk.draft_budget and not outcome.draft.tokens:
            self._rest(chunk.request, BLANK)
        if not chunk.draft.tokens:
            return
        kind, kept = chunk.draft.kind, len(outcome.tokens) - 1
        sort = self._sorts.setdefault(kind, Sort())
        own = self._own.setdefault(chunk.request, {}).setdefault(kind, Belief())
        for depth in range(1, min(kept + 1, max(chunk.draft.depths())) + 1):
            right = depth <= kept
            sort.at(depth).add(right, self._step)
            own.add(right, self._step)
        self._all.add(kept > 0, self._step)
        if kept:
            self._more.hope(self._step)
            self._rests.pop(chunk.request, None)
            if kind == self._model:
                self._account.kept += kept
                self._longer.hope(self._step)

    def spent(self, seconds: float, passes: int) -> None:
        """Takes note of what the drafts of a step cost, `passes` calls of a model one after the other."""
        if passes:
            self._costs.append(seconds / passes)
        if self._model is not None and self._allowed:
            self._account.making, self._account.passes = seconds, passes

    def forget(self, number: int) -> None:
        self._own.pop(number, None)
        self._rests.pop(number, None)
