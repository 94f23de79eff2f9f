"""Scheduler: plans the rows of each step and takes in what came of them. It knows tokens, pages and budgets; it must not
know models, tensors or text.

There is no prefill and no decode here. A running request always wants the same: rows for tokens[cached:], and below the
last of them its draft. How a step is filled:

    1. every running request, in policy order: one row for certain, more while the budget (of rows and of time) lasts
       (where pages are short: idle pages of the prefix tree go first, then the last running request is preempted)
    2. waiting requests, in policy order, while there are seats, budget and pages for all they bring
    3. drafts, with the budget and the pages that nobody else wanted
    4. where there is nothing but one row each then and nobody who waits has a seat, several passes at a time

A step may be planned while others are under way (options.ahead), if it is certain how many tokens each of these brings: then only their
values are missing, and the device has them. What needs more than that, a page of another request above all, waits for the results.
"""

import time
from collections.abc import Callable

from slipstream.base.errors import BackendError, InputError
from slipstream.base.registry import load
from slipstream.cache import PagePool, PageTables, PrefixCache
from slipstream.cost import Pace, Work
from slipstream.scheduler.admission import check_fits, introduce, open_table, owed, waits_for_leader
from slipstream.scheduler.budget import Budget
from slipstream.scheduler.chunk import make_chunks
from slipstream.scheduler.controller import Controller
from slipstream.scheduler.ending import Watch, append
from slipstream.scheduler.integrity import check_requests
from slipstream.scheduler.options import SchedulerOptions, Stats
from slipstream.scheduler.passes import most_passes, passes
from slipstream.scheduler.queue import Queue
from slipstream.scheduler.request import Event, Request, State
from slipstream.step import Admission, Chunk, Outcome, Plan, Result
from slipstream.step.draft import PREDICTION


class Scheduler:
    """Owns every request from `add` to its last event.

    Args:
        options: what there is to share out; `self.options` may be replaced between steps, by one with another target_itl or `ahead`.
        watch: called with (number, token) for every new token that is part of the text, in order; may return a reason to end there.
        clock: seconds, for policies that look at the time.
        pace: predicts the time of a step; None where options.target_itl is 0.
        controller: decides how many guesses pay; None: all that there are.
    """

    def __init__(
        self,
        options: SchedulerOptions,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
        pace: Pace | None = None,
        controller: Controller | None = None,
    ):
        if options.target_itl and pace is None:
            raise InputError(f"target_itl={options.target_itl!r}: needs a pace to keep to; give one, or 0")
        self.options = options
        self._pace, self._controller = pace, controller
        pool = PagePool(options.pages, options.page_size)
        self.tables = PageTables(pool, PrefixCache(pool), options.prefix_cache)
        self._watch = watch
        self._clock = clock
        policy = load("slipstream.scheduler.policies", options.policy)
        self._running, self._waiting = Queue(policy), Queue(policy)
        self._requests: dict[int, Request] = {}
        self._released: list[int] = []  # running no more, to be said in the next plan
        self._under_way = 0  # plans that were not committed
        self._certain = True  # whether it is known how many tokens they bring
        self._seats = min(options.max_batch, options.max_step_tokens)
        self._hits = self._preemptions = self._streams = 0

    # Requests come and go

    def add(self, request: Request) -> None:
        """Takes in a request.

        Raises:
            InputError: its number is in use, it is empty, or its prompt is not that of its leader.
            CapacityError: it could never run, however empty the engine is.
        """
        if request.number in self._requests:
            raise InputError(f"request {request.number}: this number is in use")
        check_fits(request, self.options, self.tables)
        request.origin = None if request.leader is None else self._requests.get(request.leader)
        if request.origin is not None and request.origin.tokens[: request.origin.prompt_len] != request.tokens:
            raise InputError(f"request {request.number}: its prompt is not that of its leader {request.leader}")
        request.state = State.WAITING
        request.settle()
        self._requests[request.number] = request
        self._waiting.add(request)
        self._streams += request.streamed

    def abort(self, number: int) -> None:
        """Ends a request without an event. Unknown numbers are ignored: it may just have finished."""
        self.finish(number, "abort")

    def finish(self, number: int, reason: str) -> Event | None:
        """Ends a request now; what a step under way brings for it is ignored. Returns its last event; None if the number is
        unknown."""
        request = self._requests.get(number)
        if request is None:
            return None
        self._end(request)
        return Event(number, finish_reason=reason)

    def preempt(self, number: int) -> None:
        """Lets a running request wait and compute again what the tree does not remember; ignored unless it runs."""
        request = self._requests.get(number)
        if request is not None and request.state is State.RUNNING:
            self._preempt(request)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to plan or to release."""
        return bool(self._requests or self._released)

    @property
    def stats(self) -> Stats:
        pool = self.tables.pool
        return Stats(len(self._running), len(self._waiting), pool.free, pool.idle, self._hits, self._preemptions)

    # A step is planned

    def schedule(self) -> Plan:
        """The next step; its pages are reserved when this returns. An empty plan if there is nothing to do, or nothing before the result
        of a plan under way is committed, as it must be in any case when more than `options.ahead` are."""
        if self._under_way and not self._certain:
            return Plan()
        now = self._clock()
        self._running.order(now)
        preemptions = self._preemptions
        budget = Budget(self.options, self._running, self._pace, self._streams > 0)
        trunks = self._continue(budget)
        if trunks is None:
            return Plan()
        admitted: list[Admission] = []
        if len(self._waiting) and budget.rows and preemptions == self._preemptions:  # where one has lost his seat, nobody takes one
            self._waiting.order(now)
            admitted = self._admit(trunks, budget)
        queue = len(self._waiting) > 0
        several = 1 if queue and len(self._running) < self._seats else most_passes(trunks, self._pace, self.options)
        chunks = make_chunks(trunks, queue, budget, self._controller, self.tables, self.options, several)
        times = passes(trunks, chunks, several, self.tables, self._pace)
        if not chunks and (self._under_way or not self._released):
            return Plan()
        self._certain = all([request.begin(chunk, times) for (request, _), chunk in zip(trunks, chunks, strict=True)])
        self._under_way += 1
        released, self._released = tuple(self._released), []
        return Plan(tuple(admitted), tuple(chunks), self.tables.take_copies(), released, times)

    def _continue(self, budget: Budget) -> list[tuple[Request, int]] | None:
        """(request, trunk rows) of the running requests, with pages for them. None if that takes a page of another, while a step of it
        may be under way."""
        tables, running, longest, at = self.tables, self._running, self.options.max_chunk, 0
        trunks: list[tuple[Request, int]] = []
        while at < len(running):
            request = running[at]
            rows = request.owed
            if rows > 1:
                rows = 1 + budget.more(request, min(rows, longest) - 1)
            if request.over:
                at += 1
            elif tables.grow(request.table, request.next + rows):
                trunks.append((request, rows))
                at += 1
                if rows > 1:
                    budget.take(request, rows - 1)
            elif self._under_way:
                return None
            else:
                assert len(running) > 1, f"request {request.number} has all pages and needs more"
                self._preempt(running[-1])
                budget.rows += 1
        return trunks

    def _admit(self, trunks: list[tuple[Request, int]], budget: Budget) -> list[Admission]:
        """Lets waiting requests in, in order, up to the first for which there is no room, and appends their trunks."""
        admitted: list[Admission] = []
        spare = owed((request for request, _ in trunks), self.tables)
        at = 0
        while at < len(self._waiting) and len(self._running) < self._seats:
            request = self._waiting[at]
            if waits_for_leader(request):
                at += 1
                continue
            if not budget.opens(request) or not open_table(request, self.tables, spare):
                break
            self._hits += request.cached
            rows = budget.admit(request, min(request.owed, self.options.max_chunk))
            grown = self.tables.grow(request.table, request.next + rows)  # not within the assertion, which `python -O` leaves out
            assert grown, "pages were counted before"
            spare += owed((request,), self.tables)
            self._running.add(self._waiting.pop(at))
            request.state = State.RUNNING
            trunks.append((request, rows))
            admitted.append(introduce(request))
        return admitted

    def _preempt(self, request: Request) -> None:
        """Takes a running request's pages and lets it wait; it will compute again what the tree does not remember."""
        self._running.remove(request)
        self.tables.close(request.table, request.tokens, request.cached)
        request.leave()
        self._waiting.add(request)
        self._released.append(request.number)
        self._preemptions += 1

    # What came of it

    def observe(self, work: Work, seconds: float, passes: int = 1) -> None:
        """Takes note of how long a step took, all its passes together and the host's work for it included, for the time of those to
        come."""
        if self._pace is not None:
            self._pace.observe(work, seconds / passes, passes)

    def commit(self, plan: Plan, result: Result) -> list[Event]:
        """Takes in the result of the oldest plan under way. Requests that ended or were preempted since are passed over.

        Raises:
            BackendError: the result does not answer the plan.
        """
        events = []
        self._under_way -= 1
        if self._controller is not None:
            self._controller.spent(plan, result)
        if len(plan.chunks) != len(result.outcomes):
            raise BackendError(f"{len(plan.chunks)} chunks were planned, {len(result.outcomes)} outcomes came back")
        for chunk, outcome in zip(plan.chunks, result.outcomes, strict=True):
            request = self._requests.get(chunk.request)
            if request is None or not request.planned or request.planned[0] is not chunk:
                continue
            if outcome.request != chunk.request or bool(outcome.tokens) != chunk.sample:
                raise BackendError(f"the outcome of request {outcome.request} does not answer the chunk of request {chunk.request}")
            if self._controller is not None:
                self._controller.learn(chunk, outcome)
            event = self._advance(request, chunk, outcome)
            if event.tokens or event.scores or event.finish_reason:
                events.append(event)
        return events

    def _advance(self, request: Request, chunk: Chunk, outcome: Outcome) -> Event:
        """Appends the new tokens up to the end of the text, if they reach it."""
        new = outcome.tokens
        taken, reason = append(request, new, self._watch) if new else (0, None)
        kept = min(taken, len(new) - 1) if new else 0  # the last of them was sampled, those before it were nodes
        request.cached = chunk.start + len(chunk.trunk) + kept
        if new:  # passes behind the end of a text write where its last token lies
            request.cached = min(request.cached, request.limit - 1)
        request.planned.pop(0)
        request.settle()
        request.draft = outcome.draft
        if outcome.scores is not None:
            request.scored += len(outcome.scores)
        if request.params.max_tokens == 0 and request.cached == request.prompt_len:
            reason = "length"
        if reason is None:
            self.tables.publish(request.table, request.tokens, request.cached)
        else:
            self._end(request)
        predicted = (len(chunk.draft), kept) if chunk.draft.kind.startswith(PREDICTION) else (0, 0)
        logprobs = outcome.logprobs if outcome.logprobs is None or taken == len(new) else outcome.logprobs[:taken]
        return Event(request.number, new if taken == len(new) else new[:taken], logprobs, outcome.scores, reason, predicted)

    def _end(self, request: Request) -> None:
        del self._requests[request.number]
        if self._controller is not None:
            self._controller.forget(request.number)
        self._streams -= request.streamed
        if request.state is State.RUNNING:
            self._running.remove(request)
            self.tables.close(request.table, request.tokens, request.cached)
            request.table = None
            self._released.append(request.number)
        else:
            self._waiting.remove(request)
        request.state = State.FINISHED

    def forget(self) -> None:
        """No plan under way will be committed: the steps failed. To be called when all requests have ended."""
        self._under_way = 0

    def check_integrity(self) -> None:
        """Raises AssertionError if requests, tables, pages and tree contradict each other."""
        check_requests(list(self._running), list(self._waiting), self._requests, self._seats)
        self.tables.check_integrity((request.table, request.cached) for request in self._running)
