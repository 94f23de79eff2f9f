"""A scheduler on a SlotModel, with everything checked around every step."""

from collections import deque
from dataclasses import replace

from slipstream.cost import Pace, Work
from slipstream.scheduler import Request, Scheduler, SchedulerOptions
from slipstream.scheduler.budget import LEAST, PATIENCE, STRETCH
from slipstream.scheduler.request import State
from slipstream.step import Plan, Result, SamplingParams
from slipstream.step.draft import EMPTY
from tests.scheduler.slot_model import VOCAB, SlotModel, expected_output, logprob_of

END = 3


def make_options(**changes) -> SchedulerOptions:
    values = {"page_size": 4, "pages": 64, "max_batch": 8, "max_step_tokens": 32, "max_len": 64, "max_chunk": 16}
    values |= {"prefix_cache": True, "policy": "fcfs", "vocab": VOCAB, "max_draft": 0}
    return SchedulerOptions(**(values | changes))


def guess(work: Work) -> float:
    """Seconds of a step on the harness's machine, as far as its owner knows it."""
    return 0.01 + 0.001 * work.rows + 1e-6 * work.read + 1e-7 * work.keys


def work_of(plan: Plan) -> Work:
    chunks = [(chunk.start, len(chunk.trunk), chunk.draft.depths()) for chunk in plan.chunks]
    return Work.of(chunks, sum(1 + len(chunk.draft) for chunk in plan.chunks if chunk.sample))


class Harness:
    """Adds requests, runs steps, collects what comes out and compares it with what each request says when alone.

    Where there is a target, steps take three times what `guess` says, on a clock that moves with them; `now` is its time. The device has
    run a step as soon as it is planned, and its result is committed when options.ahead others are under way, or nothing else can be done.
    """

    def __init__(self, options: SchedulerOptions, draft: str = "none", seed: int = 0, watched: int | None = None):
        self.options = options
        self.now = 0.0
        self.pace = Pace(guess) if options.target_itl else None
        self.watched = watched
        self.seen: dict[int, list[int]] = {}
        self.scheduler = Scheduler(options, self.watch, clock=lambda: self.now, pace=self.pace)
        self.model = SlotModel(options, draft, seed)
        self.requests: dict[int, Request] = {}
        self.prompts: dict[int, tuple[int, ...]] = {}
        self.output: dict[int, list[int]] = {}
        self.logprobs: dict[int, list] = {}
        self.scores: dict[int, list] = {}
        self.reason: dict[int, str] = {}
        self.plans = []
        self.under_way = deque()  # (plan, result)
        self.followed = 0  # plans that were made while others were under way

    def watch(self, number: int, token: int) -> str | None:
        self.seen[number].append(token)
        return "watched" if token == self.watched else None

    def add(
        self, number: int, prompt, *, sample: int = 0, leader: int | None = None, seed: int = 1, streamed: bool = True, banned=(), **params
    ) -> Request:
        params = SamplingParams(**{"max_tokens": 8, "ignore_eos": True} | params)
        request = Request(number, list(prompt), params, seed, sample, leader=leader, ends=(END,), banned=banned, streamed=streamed)
        self.scheduler.add(request)
        self.requests[number], self.prompts[number] = request, tuple(prompt)
        self.output[number], self.logprobs[number], self.scores[number], self.seen[number] = [], [], [], []
        return request

    def step(self, between=lambda: None):
        """Plans a step, if one can be planned now, and commits one, if one has to be; `between` is called while it is under way."""
        running = [request for request in self.requests.values() if request.state is State.RUNNING]
        decoding = any(request.streamed and request.owed == 1 for request in running)
        plan = self.scheduler.schedule()
        moves = bool(plan.chunks or plan.released)
        assert moves or self.under_way or not self.scheduler.has_work, "nothing moves"
        if moves:
            self.plans.append(plan)
            self.followed += bool(self.under_way)
            self.check_rows(plan, running)
            if self.pace is not None and plan.chunks:
                self.check_time(plan, running, decoding)
                self.now += 3 * guess(work_of(plan))
                self.scheduler.observe(work_of(plan), 3 * guess(work_of(plan)))
            self.under_way.append((plan, self.model.run(plan)))
        between()
        if self.under_way and (not moves or len(self.under_way) > self.options.ahead):
            self.commit(*self.under_way.popleft())
        self.scheduler.check_integrity()
        return plan

    def commit(self, plan: Plan, result: Result) -> None:
        for event in self.scheduler.commit(plan, result):
            assert event.request not in self.reason, "an event after the end"
            self.output[event.request].extend(event.tokens)
            ended_by_id = event.finish_reason == "stop"  # that token is no part of the text
            assert self.seen[event.request] == self.output[event.request][: -1 if ended_by_id else None]
            if self.requests[event.request].params.logprobs is not None:
                assert len(event.logprobs or ()) == len(event.tokens)
            self.logprobs[event.request].extend(event.logprobs or ())
            self.scores[event.request].extend(event.scores or ())
            if event.finish_reason is not None:
                self.reason[event.request] = event.finish_reason

    def check_rows(self, plan: Plan, running: list[Request]) -> None:
        """Whoever runs on has a row, and they are no more than there are."""
        planned = {chunk.request for chunk in plan.chunks}
        assert all(request.number in planned for request in running if request.state is State.RUNNING and not request.over)
        assert plan.rows <= self.options.max_step_tokens

    def check_time(self, plan: Plan, running: list[Request], decoding: bool) -> None:
        """The step is predicted to take no more than the target, but for the rows that it has in any case."""
        if not any(request.streamed for request in self.requests.values() if request.number not in self.reason):
            return
        promised = {request.number for request in running}
        plain = Work.of([(chunk.start, 1, ()) for chunk in plan.chunks if chunk.request in promised], 0)
        limit = max(self.options.target_itl, STRETCH * self.pace.predict(plain)) if decoding else self.options.target_itl * PATIENCE
        more = sum(len(chunk.trunk) - (chunk.request in promised) for chunk in plan.chunks)
        trunks = replace(plan, chunks=tuple(replace(chunk, draft=EMPTY) for chunk in plan.chunks))
        if more > LEAST:
            assert self.pace.predict(work_of(trunks)) <= limit * 1.001
        if plan.rows > trunks.rows:
            assert self.pace.predict(work_of(plan)) <= limit * 1.1  # drafts are counted at their requests' mean length

    def abort(self, number: int) -> None:
        self.scheduler.abort(number)
        self.reason.setdefault(number, "abort")

    def run(self, steps: int = 2000) -> int:
        """Steps until nothing is left to do. Returns how many it took."""
        for taken in range(steps):
            if not self.scheduler.has_work and not self.under_way:
                self.check_ends()
                return taken
            self.step()
        raise AssertionError(f"not finished after {steps} steps: {self.scheduler.stats}")

    def check_ends(self) -> None:
        """Every request said what it says when alone, and every page came home."""
        assert set(self.reason) == set(self.requests)
        for number, request in self.requests.items():
            if self.reason[number] != "abort":
                self.check_text(number, request)
        assert self.scheduler.tables.available == self.options.pages
        if not self.options.prefix_cache:
            assert self.scheduler.tables.pool.free == self.options.pages

    def check_text(self, number: int, request: Request) -> None:
        prompt, params = self.prompts[number], request.params
        watch = lambda token: "watched" if token == self.watched else None  # noqa: E731
        said, why = expected_output(prompt, params, request.seed, request.sample, request.ends, self.options.max_len, watch)
        assert (tuple(self.output[number]), self.reason[number]) == (said, why)
        text = prompt + said
        if params.logprobs is not None:
            assert self.logprobs[number] == [logprob_of(text[:at], text[at]) for at in range(len(prompt), len(text))]
        wanted = params.prompt_logprobs is not None and request.leader is None
        assert self.scores[number] == ([logprob_of(prompt[:at], prompt[at]) for at in range(1, len(prompt))] if wanted else [])
