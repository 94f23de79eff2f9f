"""Scheduler and cache under random requests, aborts, drafts and shortage: integrity after every step, and the text of
every request is what it is alone."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.scheduler.harness import Harness, make_options
from tests.scheduler.slot_model import VOCAB

# few different beginnings, so that texts share them
BEGINNINGS = [(), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 9), (0,) * 7]
prompts = st.builds(
    lambda beginning, rest: (beginning + tuple(rest)) or (5,), st.sampled_from(BEGINNINGS), st.lists(st.integers(0, VOCAB - 1), max_size=6)
)
params = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 14),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.lists(st.integers(0, VOCAB - 1), max_size=2),
        "logprobs": st.just(0),
        "prompt_logprobs": st.just(0),
        "seed": st.just(0),
    },
)


class Engine(RuleBasedStateMachine):
    @initialize(
        page_size=st.sampled_from([1, 2, 3, 4, 8]),
        spare=st.integers(0, 30),
        batch=st.integers(1, 6),
        step_tokens=st.sampled_from([1, 2, 5, 9, 40]),
        chunk=st.sampled_from([1, 2, 7, 40]),
        prefix_cache=st.booleans(),
        draft=st.sampled_from(["mixed", "tree", "right", "wrong", "none"]),
        max_draft=st.integers(0, 9),
        seed=st.integers(0, 9),
        watched=st.sampled_from([None, 7]),
        itl=st.sampled_from([0.0, 0.001, 0.05, 0.1]),  # a plain step of one row takes 0.033
        ahead=st.sampled_from([0, 1, 2]),
    )
    def begin(self, page_size, spare, batch, step_tokens, chunk, prefix_cache, draft, max_draft, seed, watched, itl, ahead):
        pages = -(-30 // page_size) + spare // page_size  # one request of max_len fits, more may not
        options = make_options(
            page_size=page_size,
            pages=pages,
            max_batch=batch,
            max_step_tokens=step_tokens,
            max_chunk=chunk,
            max_len=30,
            prefix_cache=prefix_cache,
            max_draft=max_draft,
            target_itl=itl,
            ahead=ahead,
        )
        self.engine = Harness(options, draft, seed, watched)
        self.number = 0

    @rule(prompt=prompts, params=params, n=st.sampled_from([1, 1, 1, 2, 4]), least=st.integers(0, 3), streamed=st.booleans())
    def add(self, prompt, params, n, least, streamed):
        leader = None
        params = params | {"min_tokens": min(least, params.get("max_tokens", 8))}
        for sample in range(n):
            self.engine.add(self.number, prompt, sample=sample, leader=leader, streamed=streamed, **params)
            leader = self.number if leader is None else leader
            self.number += 1

    @rule(prompt=prompts)
    def score(self, prompt):
        self.engine.add(self.number, prompt, max_tokens=0, prompt_logprobs=0)
        self.number += 1

    @rule(steps=st.integers(1, 12))
    def work(self, steps):
        for _ in range(steps):
            self.engine.step()

    @precondition(lambda self: self.number > 0)
    @rule(pick=st.integers(0, 10**6), under_way=st.booleans())
    def abort(self, pick, under_way):
        number = pick % self.number
        if under_way:
            self.engine.step(between=lambda: self.engine.abort(number))
        else:
            self.engine.abort(number)
            self.engine.scheduler.check_integrity()

    @rule(pages=st.integers(1, 4))
    def evict(self, pages):
        self.engine.scheduler.tables.prefix.evict(pages)
        self.engine.scheduler.check_integrity()

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        tokens = sum(len(request.tokens) + request.params.max_tokens for request in self.engine.requests.values())
        self.engine.run(steps=20 + 12 * tokens)
        prefix = self.engine.scheduler.tables.prefix
        prefix.clear()
        assert self.engine.scheduler.tables.pool.free == self.engine.options.pages
        prefix.check_integrity()


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=150, stateful_step_count=30, suppress_health_check=list(HealthCheck))


class Thorough(Engine):
    pass


TestThorough = pytest.mark.slow(Thorough.TestCase)
TestThorough.settings = settings(max_examples=1500, stateful_step_count=40, suppress_health_check=list(HealthCheck))
