"""The loop: every step of every request passes through `Core.step`.

    drain inbox -> plan = schedule() -> executor.launch(plan) -> executor.finish() -> events = commit() -> emit

Where the device works by itself, the next plan is made and launched while it does: the left half of this line is a step ahead then.

Owns the order of these and the way from tokens to text. Knows nothing of torch, models or users' interfaces; other
threads reach it through `submit` and `abort`, which only append to the inbox.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slipstream.engine.meter import Meter
from slipstream.engine.outputs import Delta
from slipstream.scheduler import Event, Request, Scheduler
from slipstream.step import Executor, Plan
from slipstream.text.stream import NoText, TextStream

Sink = Callable[[Delta], None]


@dataclass(slots=True)
class Ticket:
    """One sample of a request on its way through the engine.

    Attributes:
        request: what the scheduler knows of it.
        text: its detokeniser and stop strings.
        sink: receives its deltas, called from the thread that runs the loop; must not block.
        pending: text that was made since the last delta.
    """

    request: Request
    text: TextStream | NoText
    sink: Sink
    pending: list[str] = field(default_factory=list)


class Core:
    """Runs requests to their end, one step at a time.

    Args:
        make_scheduler: makes the scheduler, given the function that it calls with every new token.
        executor: runs plans.
        meter: records what each step did.
        clock: seconds; that of the executor, if it lives in another time.
    """

    def __init__(
        self,
        make_scheduler: Callable[[Callable[[int, int], str | None]], Scheduler],
        executor: Executor,
        meter: Meter,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.scheduler = make_scheduler(self._watch)
        self.executor = executor
        self.meter = meter
        self._clock = clock
        self._under_way: deque[tuple[Plan, float]] = deque()  # launched, and when it was begun to plan them
        self._landed = 0.0  # when the last step was done with
        self._inbox: deque[Ticket | int] = deque()
        self._tickets: dict[int, Ticket] = {}

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Takes requests in; safe from any thread. The samples of one request come together, the first one leads."""
        self._inbox.extend(tickets)

    def abort(self, numbers: Sequence[int]) -> None:
        """Ends requests before the next step; safe from any thread; finished or unknown ones are ignored."""
        self._inbox.extend(numbers)

    def step(self) -> bool:
        """Launches a step, if one can be planned by now, and takes in the oldest one's result, unless another may be launched before;
        False if there was nothing to do."""
        try:
            self._drain()
            began = self._clock()
            plan = self.scheduler.schedule()
            if plan.chunks or plan.released:
                self.executor.launch(plan)
                self._under_way.append((plan, began))
                if len(self._under_way) <= self.scheduler.options.ahead:
                    return True
            if not self._under_way:
                return False
            self._land()
        except BaseException:  # Ctrl-C included, wherever in the step it comes
            self.fail()
            raise
        return True

    def _land(self) -> None:
        """Waits for the oldest step under way and hands over what it brought. Its time begins where that of the one before ended."""
        result = self.executor.finish()
        plan, began = self._under_way.popleft()
        began, over = max(began, self._landed), self._clock()
        self._landed = over
        done = self.meter.record(plan, result, over - began)
        for event in self.scheduler.commit(plan, result):
            self._emit(event)
        if result.steady:
            ended = over if self._under_way else self._clock()  # nobody else worked meanwhile
            self.scheduler.observe(done.work, ended - began - result.drafting, result.passes)

    def fail(self) -> None:
        """Ends everything that waits or runs, with "error": what the device knows of the requests is uncertain now."""
        self._drain()
        for number in list(self._tickets):
            self.scheduler.abort(number)
            self._close(number, "error")
        self._under_way.clear()
        self.scheduler.forget()
        self.executor.reset()

    def _drain(self) -> None:
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, int):
                if item in self._tickets:
                    self.scheduler.abort(item)
                    self._close(item, "abort")
            else:
                self._tickets[item.request.number] = item
                self.scheduler.add(item.request)

    def _watch(self, number: int, token: int) -> str | None:
        """Turns a new token into text; the reason to stop, if the text says so."""
        ticket = self._tickets[number]
        delta, stopped = ticket.text.push(token)
        ticket.pending.append(delta)
        return "stop" if stopped else None

    def _emit(self, event: Event) -> None:
        ticket = self._tickets[event.request]
        if event.finish_reason is not None:
            ticket.pending.append(ticket.text.flush())
            del self._tickets[event.request]
        text = "".join(ticket.pending)
        ticket.pending.clear()
        sample = ticket.request.sample
        ticket.sink(Delta(sample, text, event.tokens, event.logprobs, event.scores, event.finish_reason, event.predicted))

    def _close(self, number: int, reason: str) -> None:
        ticket = self._tickets.pop(number)
        ticket.sink(Delta(ticket.request.sample, finish_reason=reason))
