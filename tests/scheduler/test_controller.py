"""The controller on machines and drafters whose truth is known: never a loss, near the best fixed setting, back when times change."""

import random
from dataclasses import dataclass, field

import pytest

from slipstream.cost import Pace, Work
from slipstream.scheduler import Controller, Request
from slipstream.scheduler.controller import BEGIN
from slipstream.scheduler.reach import Reach
from slipstream.step import Chunk, DraftTree, Outcome, Plan, Result, SamplingParams

MAX = 6
CONTEXT = 300


def flat(rows: int) -> float:
    """A machine that waits for memory: rows are nearly free."""
    return 0.010 + 0.0001 * rows


def steep(rows: int) -> float:
    """One that computes: eight rows take nearly three times as long as one."""
    return 0.002 + 0.0005 * rows


def stairs(rows: int) -> float:
    """Tiles of four rows."""
    return 0.004 + 0.003 * (-(-rows // 4))


@dataclass
class World:
    """Requests that decode. `right(request)` is the chance that a guess is right if all before it are."""

    requests: int
    truth: callable
    right: callable
    kind: str = "model"
    pass_cost: float = 0.0  # seconds; 0: the drafts take no passes
    look_cost: float = 0.0  # share of a step without drafts that a guess without passes takes, per request
    reading: int = 0  # passes' worth that a model takes for a text before its first guess
    fixed: int | None = None  # nodes of every draft, without a controller
    several: int = 1  # passes of a step in which no node is checked
    host: float = 0.0  # seconds of a step beside its passes
    noise: float = 0.0
    seed: int = 0
    seconds: float = 0.0
    tokens: int = 0
    expected: float = 0.0  # tokens, without the luck
    steps: int = 0
    nodes: list[int] = field(default_factory=list)
    guesses: int = 0
    read: set[int] = field(default_factory=set)

    def __post_init__(self):
        self.pace = Pace(lambda work: 0.004 + 0.0002 * work.rows)  # the guess is wrong, as guesses are
        self.controller = Controller(self.pace, MAX)
        self.rng = random.Random(self.seed)
        self.all = [Request(number, [0] * CONTEXT, SamplingParams()) for number in range(self.requests)]
        self.passes = MAX

    def step(self) -> None:
        drafting = [request for request in self.all if request.draft.tokens]
        numbers = [request.number for request in self.all]
        if self.fixed is not None:
            shares, passes = {number: self.fixed for number in numbers}, self.fixed
        elif not drafting and self.controller.idle:
            shares, passes = {}, self.controller.skip()
        else:
            shares = self.controller.share(drafting, self.requests, self.requests, CONTEXT, 10**6, passes=self.several)
            passes = self.controller.passes(numbers, CONTEXT)
        nodes = sum(min(shares.get(request.number, 0), len(request.draft)) for request in self.all)
        ran, rows = 1 if nodes else self.several, self.requests + nodes
        took = [self.one(request, shares.get(request.number, 0), passes, ran) for request in self.all]
        made = max(outcome.draft.passes for _, outcome in took)
        looked = sum(outcome.draft.tokens != () for _, outcome in took) if not self.pass_cost else 0
        unread = [request.number for request in self.all if request.draft.passes and request.number not in self.read]
        self.read.update(unread)
        look = looked * self.look_cost * self.truth(self.requests) / self.requests
        spent = (made + self.reading * len(unread)) * self.pass_cost + look
        seconds = (self.host + self.truth(rows) * ran) * (1 + self.rng.uniform(-self.noise, self.noise))
        self.pace.observe(Work(rows, rows, self.requests * CONTEXT + rows, rows * (CONTEXT + 1)), seconds / ran, ran)
        self.controller.spent(Plan(chunks=tuple(chunk for chunk, _ in took)), Result(tuple(outcome for _, outcome in took), spent, ran))
        for chunk, outcome in took:
            self.controller.learn(chunk, outcome)
        self.seconds += seconds + spent
        self.steps += 1
        self.nodes.append(nodes)

    def one(self, request: Request, nodes: int, passes: int, ran: int) -> tuple[Chunk, Outcome]:
        """What comes of one request."""
        draft = request.draft.prune(nodes, MAX, 10)
        kept = 0
        while kept < len(draft) and self.rng.random() < self.right(request.number):
            kept += 1
        asked = self.fixed is not None or self.controller.looks(request.number)
        length = passes * self.controller.drafts(request.number) if self.pass_cost else MAX * asked
        self.guesses += length > 0 and not self.pass_cost
        request.draft = DraftTree.chain([1] * length, self.kind, length if self.pass_cost else 0)
        self.tokens += kept + ran
        self.expected += ran + sum(self.right(request.number) ** depth for depth in range(1, len(draft) + 1))
        chunk = Chunk(request.number, CONTEXT, (0,), (), True, draft, draft_budget=length)
        return chunk, Outcome(request.number, (1,) * (kept + ran), draft=request.draft)

    def run(self, steps: int) -> "World":
        for _ in range(steps):
            self.step()
        return self

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


@pytest.mark.parametrize("pass_cost", [0.0, 0.0005], ids=["free", "model"])
@pytest.mark.parametrize("truth", [flat, steep, stairs])
@pytest.mark.parametrize("requests", [1, 8, 32])
def test_drafts_that_are_always_wrong_cost_next_to_nothing(requests, truth, pass_cost):
    world = World(requests, truth, lambda number: 0.0, pass_cost=pass_cost, look_cost=0.05, noise=0.2).run(400)
    assert world.speed * truth(requests) / requests > 0.97
    assert world.guesses < 60 * requests, "seldom asked for a guess"
    assert any(world.nodes[200:]), "tried again now and then"


@pytest.mark.parametrize("pass_cost", [0.0, 0.0005], ids=["free", "model"])
@pytest.mark.parametrize("right", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("truth", [flat, steep, stairs])
@pytest.mark.parametrize("requests", [1, 8])
def test_plain_decoding_is_beaten_as_it_really_runs(requests, truth, right, pass_cost):
    """A step without guesses takes eight passes, and pays the host once. Never below 0.97 of that, and within a tenth of the best number
    of guesses; a model has to promise more before it begins."""
    host, look, near = 0.001, 0.0 if pass_cost else 0.05, 1 / BEGIN if pass_cost else 0.9
    world = World(requests, truth, lambda number: right, pass_cost=pass_cost, look_cost=look, several=8, host=host, noise=0.1)
    world.pace = world.controller._pace = Pace(lambda work: 0.3 * (host + truth(work.rows)))
    world.run(150)
    world.seconds = world.expected = 0.0
    world.run(150)

    def speed(nodes):
        """What a fixed setting can be expected to give."""
        seconds = host + truth(requests * (nodes + 1)) + nodes * pass_cost + look * truth(requests)
        return requests * (1 + sum(right**depth for depth in range(1, nodes + 1))) / seconds

    plain = requests * 8 / (host + 8 * truth(requests))
    assert world.expected / world.seconds > max(0.97 * plain, near * max(speed(nodes) for nodes in (1, 2, 3, 4, 6)))


@pytest.mark.parametrize("right", [0.6, 0.9])
@pytest.mark.parametrize("pass_cost", [0.0, 0.0005], ids=["free", "model"])
@pytest.mark.parametrize("truth", [flat, steep, stairs])
@pytest.mark.parametrize("requests", [1, 4, 16])
def test_near_the_best_fixed_setting(requests, truth, pass_cost, right):
    """After the first 150 steps, in which a machine is learnt that is up to three times faster or slower in its rows than guessed."""

    def speed(fixed):
        world = World(requests, truth, lambda number: right, pass_cost=pass_cost, fixed=fixed, noise=0.1)
        world.run(150 if fixed is None else 0)
        world.seconds = world.tokens = 0
        return world.run(250).speed

    assert speed(None) > 0.92 * max(speed(fixed) for fixed in (0, 1, 2, 3, 4, 6))


def test_a_machine_that_slows_down_makes_no_check_look_cheap():
    """Steps that checked guesses were last seen when all was three times faster: they seem quicker than plain ones, and are not."""
    world = World(1, flat, lambda number: 0.0, several=8, host=0.005).run(500)
    world.truth, world.host = lambda rows: 3 * flat(rows), 0.015
    tried = world.controller._more.tries
    world.run(100)
    assert sum(nodes > 0 for nodes in world.nodes[500:]) <= world.controller._more.tries - tried


def test_requests_are_told_apart():
    """Half of the requests are guessed well: they draft, the others do not, which no setting for all of them reaches."""
    world = World(8, steep, lambda number: 0.9 if number < 4 else 0.02).run(500)
    best = max(World(8, steep, world.right, fixed=fixed).run(500).speed for fixed in range(5))
    assert world.speed > 1.03 * best


def test_what_was_given_up_is_taken_up_again():
    world = World(1, steep, lambda number: 0.0).run(400)
    world.right = lambda number: 0.9
    world.run(1200)
    assert sum(world.nodes[-200:]) > 200, "at least a node a step"


@pytest.mark.parametrize("seed", range(3))
def test_a_text_that_is_read_first_keeps_no_model_from_beginning(seed):
    """Reading takes as long as sixteen passes, so the first guesses seem dear, and nothing is known of a step that checks some. The first
    refusals are short, and a pass is not thought to read a text every time."""
    world = World(1, flat, lambda number: 0.75, pass_cost=0.001, reading=16, seed=seed).run(60)
    assert world.expected / world.seconds * flat(1) > 1.3


def test_a_model_that_disappoints_sleeps():
    """It is right often enough to promise something, but each new text has to be read first, and that costs more than it brings."""
    world, slept = World(2, steep, lambda number: 0.55, pass_cost=0.0008, reading=40), 0
    for _ in range(60):
        world.run(40)
        slept += world.controller._purse.wakes > world.controller._step
        world.read.clear()  # other texts
        for number in range(2):
            world.controller.forget(number)
    assert slept > 30 and world.speed * steep(2) / 2 > 0.97


def test_a_request_that_ended_is_forgotten():
    world = World(3, flat, lambda number: 0.5).run(5)
    for number in range(3):
        world.controller.forget(number)
        world.controller.forget(number)
    assert not world.controller._reach._own


def test_nodes_side_by_side_share_their_reach():
    controller, reach = Controller(Pace(lambda work: 0.01 + 0.0001 * work.rows), MAX), Reach(MAX)
    request = Request(1, [0] * CONTEXT, SamplingParams())
    request.draft = DraftTree((1, 2, 3, 4), (-1, -1, 0, 0), "tree")
    reaches = reach.of(1, request.draft, 0)
    assert len(reaches) == 4 and reaches[0] == reaches[1] < 0.5 and reaches[2] == reaches[3] < reaches[0]
    assert controller.share([request], 1, 1, CONTEXT, 2) in ({1: 1}, {1: 2})


def test_a_request_that_gets_ahead_alone_is_worth_less_where_nobody_waits():
    """With a queue behind it its seat is free the sooner; without, the seven others go on as before, in steps that are hardly shorter."""

    def share(count, queue):
        controller = Controller(Pace(lambda work: 0.010 + 0.0002 * work.rows), MAX)
        requests = [Request(number, [0] * CONTEXT, SamplingParams()) for number in range(count)]
        requests[0].draft = DraftTree.chain([1] * 4, "sure")
        return controller.share(requests[:1], count, count, CONTEXT, 100, queue)

    assert share(8, True) and not share(8, False)
    assert share(1, False), "alone, each token is a step less"


@pytest.mark.parametrize(("overlap", "longest"), [(False, 4), (True, 16)])
def test_looks_for_nothing_are_rarer_where_they_make_the_next_step_wait(overlap, longest):
    controller, looks = Controller(Pace(lambda work: 0.01), MAX, overlap), []
    for step in range(200):
        controller.skip()
        if controller.looks(0):
            looks.append(step)
            controller.learn(Chunk(0, 5 + step, (1,), (0,), True, draft_budget=4), Outcome(0, (1,)))
    assert max(after - before for before, after in zip(looks, looks[1:], strict=False)) == longest
