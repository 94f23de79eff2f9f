"""Controller: how many guesses pay. Owns what it costs to make and to check them; how good they are it asks the reach, how long a step
takes the pace. It never changes a text, only how far a step reaches.

    goodput(plan) = (requests + sum of the reach of the nodes that are checked) / (seconds of the step + seconds of guessing)
    plain         = requests / seconds of a pass, in a step of as many passes as one without guesses would take (passes.py)

`share` picks the nodes of all drafts at hand that make goodput greatest, if that is more than plain decoding gives as it really runs.
`passes` says how long a model may draft for the next step; drafts that cost next to nothing are made first, and cut afterwards. Time is
counted in passes of the model that is drafted for.

Every now and then a step goes further than what seems to pay (where nothing does: one node, or one of each request): what was given up,
and what was never tried, is seen again that way.

Guesses that cost next to nothing are looked for when a step is over, be it of one pass or of several. They still cost the host its time,
as much as a small model's step has to spare. So where none was worth checking, requests are asked for none for a pass, then for two,
four, eight; a request for which there was none, for up to four. Where the next step could be planned meanwhile, which then has to wait for
what is found, that is four times as long. And a model that has cost more than it saved, whatever was expected of
it, sleeps (purse.py).
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from slipstream.cost import Pace, Work
from slipstream.cost.pace import EDGES
from slipstream.scheduler.passes import COUNTS
from slipstream.scheduler.purse import Purse
from slipstream.scheduler.reach import Reach
from slipstream.scheduler.request import Request
from slipstream.step import Chunk, Outcome, Plan, Result

MARGIN, BEGIN = 1.05, 1.1  # by which drafts must be better than none; those of a model that has the text to read first
KEEP = 32  # passes for which a prediction, or the decision that no model drafts, is kept
FIRST = 2  # passes of a model of which nothing is known
SHORT = 4  # passes for which the length of drafts is kept
PROBE = 32  # passes from a step that goes further to the next
LOOK, BLANK = 16, 4  # passes at most without a guess for a request where no guesses are worth checking; for one that had none
LATER = 4  # times as many where a look makes the next step wait
BREADTH = 8  # requests that are tried together
SELDOM, NEVER = 512, 4096  # the most where that never brings anything: for nodes, and for a model, which has to read the text first


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

    def grow(self, step: int, most: int) -> None:
        """Up to twice as long again. All look in the same steps, so that most steps have nothing to decide."""
        self.pause = min(2 * self.pause or 1, most)
        self.due = (step + 1) // self.pause * self.pause + self.pause


@dataclass(slots=True)
class Account:
    """What a model's guesses cost and brought in one step.

    Attributes:
        requests, plain: of the step; seconds that one without guesses takes.
        checking, making: seconds for the guesses at hand, and for the next.
        passes, drafted: that were made, for so many requests.
        kept: guesses that were right.
    """

    requests: int = 0
    plain: float = 0.0
    checking: float = 0.0
    making: float = 0.0
    passes: int = 0
    drafted: int = 0
    kept: int = 0


class Controller:
    """
    Args:
        pace: predicts the time of a step.
        max_draft: nodes of a draft at most.
        overlap: whether a step is planned while another runs, unless guesses are looked for at the end of that.
    """

    def __init__(self, pace: Pace, max_draft: int, overlap: bool = False):
        self._pace, self._max, self._later = pace, max_draft, LATER if overlap else 1
        self._step = 0  # passes so far
        self._several = COUNTS[0]  # passes of a step that decodes without guesses, the last time that there might have been one
        self._more, self._longer = Trial(SELDOM), Trial(NEVER)  # nodes; passes of a model
        self._reach = Reach(max_draft)
        self._rests: dict[int, Rest] = {}
        self._times: dict[tuple[int, ...], tuple[int, float]] = {}  # arguments of _seconds -> (step, what it said)
        self._costs: dict[int, deque[float]] = {}  # octave of requests -> seconds of a model's pass for so many
        self._looks: deque[float] = deque(maxlen=7)  # seconds of looking for guesses that take none, in one step
        self._model: str | None = None  # kind of the drafts that take passes
        self._purse, self._account = Purse(), Account()
        self._again = False  # whether it can guess within a step, so that checks take several passes as well
        self._allowed = 0  # passes, for the drafts that are being made
        self._quiet, self._pause = 0, SHORT  # step before which no model drafts; passes that the next such decision is kept
        self._trying = False  # whether the drafts at hand were made to see what comes of them
        self._tried: int | None = None  # the only request for which a model may draft; None: any
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
        self, drafting: Sequence[Request], requests: int, rows: int, context: int, most: int, queue: bool = True, passes: int = 1
    ) -> dict[int, int]:
        """How many nodes of each draft are checked.

        Args:
            drafting: requests that have a draft at hand and may use it.
            requests: that will say something in this step.
            rows: trunk rows of the step.
            context: tokens of a request, on average.
            most: nodes that the step has room for.
            queue: whether others wait for a seat.
            passes: that the step takes if no node is checked.

        Returns:
            request's number -> nodes; those without any are not named.
        """
        self._settle()
        self._step += 1
        if rows == requests:
            self._several = passes
        each = {request.number: self._reach.of(request.number, request.draft, self._step) for request in drafting}
        nodes = sorted(((reach, number) for number, reaches in each.items() for reach in reaches), reverse=True)[:most]
        worth = 1.0 if queue or not nodes else self._worth([sum(reaches) for reaches in each.values()], requests, context, passes)
        reaches = [reach * worth for reach, _ in nodes if reach]
        looking = median(self._looks) if self._looks and not any(request.draft.passes for request in drafting) else 0.0
        checks = passes if len(drafting) == requests and all(request.draft.again for request in drafting) else 1
        best = self._best(reaches, requests, rows, context, passes, looking, checks)[0] if reaches else 0
        paying = best > 0
        if nodes and (self._step >= self._more.due or self._trying):
            self._more.done(self._step, hopeless=not best)
            best = 2 * best or (1 if self._more.tries % 2 and not self._trying else min(requests, BREADTH))
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
            self._open(drafting, out, requests, rows, context, passes, checks)
        return out

    def _rest(self, number: int, most: int) -> None:
        """Nothing came of looking: the next look has time."""
        self._rests.setdefault(number, Rest()).grow(self._step, most * self._later)

    def drafts(self, number: int) -> bool:
        """Whether a model may draft for the request, if it may draft at all."""
        return self._tried is None or number == self._tried

    def passes(self, numbers: Sequence[int], context: int) -> int:
        """How many tokens a model may draft for each of these requests, which will say something in the next step."""
        self._tried = None
        self._allowed = self._passes(numbers, context)
        if self._allowed:
            self._pause = SHORT
        else:
            self._quiet = max(min(self._step + self._pause, self._longer.due), self._purse.wakes)
            self._pause = min(2 * self._pause, KEEP)
        return self._allowed

    def _passes(self, numbers: Sequence[int], context: int) -> int:
        if self._model is None:
            return min(self._max, FIRST)
        if self._step < self._purse.wakes:
            return 0
        if self._step >= self._longer.due:
            self._longer.done(self._step, hopeless=not self._length)
            self._trying = True
            if not self._length:  # one text is read, not all of them
                self._tried = numbers[self._longer.tries % len(numbers)]
            return min(self._max, max(1, 2 * self._length))
        step, requests = self._decided
        if requests == len(numbers) and self._step - step < (SHORT if self._length else self._pause // 2):
            return self._length
        count = len(numbers)
        cost = self._cost(count)
        chains = [self._reach.chain(number, self._model, self._max, self._step) for number in numbers]
        margin = MARGIN if self._length else BEGIN
        self._decided, self._length = (self._step, count), 0
        if not any(chain[0] for chain in chains):
            return 0
        top = self._best([], count, count, context, self._several)[1] * margin
        checks = self._several if self._again else 1
        for length in range(1, max(map(len, chains)) + 1):
            reaches = sorted((reach for chain in chains for reach in chain[:length]), reverse=True)
            goodput = self._best(reaches, count, count, context, self._several, length * cost, checks)[1]
            if goodput > top:
                self._length, top = length, goodput
        return self._length

    def _best(
        self, reaches: list[float], requests: int, rows: int, context: int, passes: int, spent: float = 0.0, checks: int = 1
    ) -> tuple[int, float]:
        """(nodes, goodput) of the best that can be made of nodes with this reach, the likeliest first, which take `spent` seconds to
        make and are checked in one of `checks` passes: none of them, if `passes` without any give more."""
        octave = context.bit_length()
        one = self._seconds(requests, rows, 0, octave, passes)  # a check takes no less: if so it seems, it was measured in better days
        best, top = 0, requests / one
        least, gains = top * MARGIN, list(accumulate(reaches, initial=float(requests)))
        edges = EDGES[bisect_right(EDGES, rows) : bisect_left(EDGES, rows + len(reaches))]  # between them time hardly changes
        for count in (*(edge - rows for edge in edges), len(reaches)) if reaches else ():
            goodput = gains[count] / (max(one, self._seconds(requests, rows, count, octave, checks)) + spent)
            if goodput > max(top, least):
                best, top = count, goodput
        return best, top

    def _worth(self, gains: Sequence[float], requests: int, context: int, passes: int) -> float:
        """Of a token that comes early, against one of a step in which all have theirs. Where nobody waits for the seat, a request that
        gets ahead of the others makes the rest of their steps smaller by a row, not fewer; only what all gain makes them fewer."""
        if requests == 1:
            return 1.0
        one, all_ = (self._seconds(count, count, 0, context.bit_length(), passes) for count in (1, requests))
        row = min(1.0, max(0.0, all_ - one) / (requests - 1) * requests / all_)
        even = min(gains) * requests / sum(gains) if len(gains) == requests and sum(gains) else 0.0
        return row + (1 - row) * even

    def _seconds(self, requests: int, trunk: int, nodes: int, octave: int, passes: int = 1) -> float:
        """Of a pass over so many rows, in a step of so many; the prediction is made anew every few steps."""
        key = requests, trunk, nodes, octave, passes
        step, seconds = self._times.get(key, (-KEEP, 0.0))
        if self._step - step >= KEEP:
            if len(self._times) > 4096:
                self._times.clear()
            context = max(1, 3 << octave >> 2)  # the middle of the octave
            rows, read = trunk + nodes, requests * context + trunk + nodes
            seconds = self._pace.predict(Work(rows, requests + nodes, read, max(read, rows * context)), passes)
            if nodes:  # more rows never take less; that one cell was measured in a worse moment than the next says nothing
                seconds = max(seconds, self._seconds(requests, trunk, 0, octave, passes))
            self._times[key] = self._step, seconds
        return seconds

    # What a model costs

    def _cost(self, requests: int) -> float:
        """Seconds of a pass for so many, or for the number nearest to it that was seen. Where a text was read first, or the machine
        stalled, it took longer; so the shorter ones count."""
        if not self._costs:
            return 0.0
        seen = sorted(self._costs[min(self._costs, key=lambda octave: abs(octave - requests.bit_length()))])
        return seen[len(seen) // 4]

    def _open(
        self, drafting: Sequence[Request], out: dict[int, int], requests: int, rows: int, context: int, passes: int, checks: int
    ) -> None:  # fmt: skip
        """A new account, with what it costs to check the model's nodes of this step: also the passes that it could have taken."""
        own = sum(out.get(request.number, 0) for request in drafting if request.draft.kind == self._model)
        account, octave = self._account, context.bit_length()
        account.requests, account.plain = requests, self._seconds(requests, requests, 0, octave, self._several)
        if own:
            plain = self._seconds(requests, rows, 0, octave, passes)
            longer = self._seconds(requests, rows, sum(out.values()), octave, checks) - plain
            account.checking = longer * own / sum(out.values())

    def _settle(self) -> None:
        account, self._account = self._account, Account()
        if account.plain and (account.making or account.checking):
            usual = account.checking + account.passes * self._cost(account.drafted)
            spent = account.making + account.checking
            self._purse.settle(self._step, account.kept / account.requests, spent / account.plain, usual / account.plain)

    # What came of it

    def learn(self, chunk: Chunk, outcome: Outcome) -> None:
        """Takes note of which nodes of a draft were right."""
        if outcome.draft.passes:
            self._model, self._again = outcome.draft.kind, outcome.draft.again
        if chunk.draft_budget and not outcome.draft.tokens:
            self._rest(chunk.request, BLANK)
        if not chunk.draft.tokens:
            return
        kind, kept = chunk.draft.kind, len(outcome.tokens) - len(outcome.said)
        for said in outcome.said:
            self._reach.learn(chunk.request, chunk.draft, said - 1, self._step)
        if kept:
            self._more.hope(self._step)
            self._rests.pop(chunk.request, None)
            if kind == self._model:
                self._account.kept += kept
                self._longer.hope(self._step)

    def spent(self, plan: Plan, result: Result) -> None:
        """Takes note of what the drafts that a step ended with cost; comes before `learn`."""
        self._step += result.passes - 1
        drafts = [outcome.draft.passes for outcome in result.outcomes if outcome.draft.passes]
        seconds, passes, octave = result.drafting, max(drafts, default=0), len(drafts).bit_length()
        made = passes * result.passes if any(outcome.rounds for outcome in result.outcomes) else passes
        if made and (made > passes or not self._again or octave not in self._costs):  # within a step they cost less than else
            self._costs.setdefault(octave, deque(maxlen=7)).append(seconds / made)
        elif not passes and any(chunk.draft_budget for chunk in plan.chunks):
            self._looks.append(seconds)
        if self._model is not None and self._allowed:
            self._account.making, self._account.passes, self._account.drafted = seconds, made, len(drafts)
        if made > passes:
            self._account.checking *= result.passes

    def forget(self, number: int) -> None:
        self._reach.forget(number)
        self._rests.pop(number, None)
