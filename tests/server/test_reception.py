"""The engine process without its process: orders in, pieces out, the loop driven by the test."""

import pytest

from slipstream.base.config import Options
from slipstream.engine.build import build
from slipstream.server import engine as engine_process
from slipstream.server.embeddings import READ_ONLY
from slipstream.server.messages import Abort, Accepted, Chat, Generate, Piece, Pieces, Refused, decode_news, decode_order, encode
from slipstream.step import SamplingParams
from slipstream.text.template import ChatTemplate

LONG = SamplingParams(max_tokens=5000, ignore_eos=True, temperature=0, n=2)


class Side:
    """The front's side of a reception."""

    def __init__(self, model: str, **more):
        self.engine = build(Options.of(model, {"max_len": 8192, "max_batch": 4, "threads": 1, **more}))
        self.answers, self.pieces = [], []
        self.reception = engine_process.attend(self.engine, ChatTemplate.load(model), self.answers.append, self.pieces.append)

    def order(self, id: int, params: SamplingParams = LONG, prompts=("the quick",), **more) -> None:
        order = decode_order(encode(Generate(id, params, list(prompts), **more)))
        self.reception.announce(order)
        self.reception.take(order)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.core.step()

    def held(self) -> int:
        stats = self.engine.core.scheduler.stats
        return self.engine.core.scheduler.options.pages - stats.free_pages - stats.idle_pages


@pytest.fixture
def side(model):
    made = Side(model)
    yield made
    made.engine.core.scheduler.check_integrity()
    assert not made.reception._live and not made.reception._seats and not made.reception._pending


def test_an_abort_frees_all_pages_within_one_step(side):
    side.order(1)
    side.order(2, prompts=("the lazy dog", [5, 6, 7]))
    side.steps(10)
    assert side.engine.core.scheduler.stats.running == 4 and side.engine.core.scheduler.stats.waiting == 2 and side.held() > 0
    side.reception.abort(2)  # running and waiting texts alike
    side.reception.abort(1)
    side.steps(1)
    stats = side.engine.core.scheduler.stats
    assert (stats.running, stats.waiting, side.held()) == (0, 0, 0)
    side.reception.abort(1)  # again, and one that nobody knows
    side.reception.abort(99)
    side.steps(2)


def test_an_abort_that_overtakes_the_order_is_kept(side):
    order = Generate(1, LONG, ["the quick"])
    side.reception.announce(order)
    side.reception.abort(1)
    side.reception.take(order)
    assert not side.answers and not side.engine.core.step()


def test_an_order_is_taken_whole_or_not_at_all(side):
    side.order(1, prompts=([5, 6], [5, 99999]))
    (refused,) = side.answers
    assert isinstance(refused, Refused) and refused.status == 400 and "99999" in refused.message
    assert not side.engine.core.step()


def test_pieces_carry_the_queue_time_and_the_hits_once(side):
    prompt = list(range(1, 65))
    for id in (1, 2):
        side.order(id, SamplingParams(max_tokens=3, temperature=0, ignore_eos=True), (prompt,))
        while side.engine.core.step():
            pass
    first, second = ([piece for piece in side.pieces if piece.id == id] for id in (1, 2))
    assert [piece.queued is not None for piece in first] == [True] + [False] * (len(first) - 1)
    assert first[0].cached == 0 and 0 < second[0].cached < 64
    assert first[0].tokens == 1 and sum(piece.tokens for piece in first) == 3 and first[-1].finish_reason == "length"


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_needs_no_logits_and_is_the_same_after_a_preemption(side, monkeypatch, pooling):
    prompt = [5 + n % 200 for n in range(1200)]  # three steps
    texts = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True, prompt_logprobs=0)
    monkeypatch.setattr(side.engine.executor.runner, "_logits", lambda *_: pytest.fail("logits were made"))
    for id in (1, 2):
        side.order(id, READ_ONLY, (prompt,), pooling=pooling)
        side.steps(2)
        if id == 2:
            side.engine.core.scheduler.preempt(min(side.reception._seats))
        while side.engine.core.step():
            pass
    monkeypatch.undo()
    first, second = (piece for piece in side.pieces if piece.finish_reason)
    assert first.vector and first.vector == second.vector and side.engine.core.scheduler.stats.preemptions == 1
    side.order(3, texts, (prompt,))  # what others ask for is theirs
    while side.engine.core.step():
        pass
    assert sum(len(piece.scores or ()) for piece in side.pieces if piece.id == 3) == len(prompt) - 1


def test_chats_are_rendered_and_their_mistakes_named(side):
    talk = Chat([{"role": "user", "content": "hi"}], {"add_generation_prompt": True})
    side.order(1, SamplingParams(max_tokens=1), (), chat=talk)
    accepted = side.answers[0]
    assert isinstance(accepted, Accepted)
    tokens = side.engine.intake.tokenizer.encode("<user>hi\n<assistant>", special=False)
    assert accepted.prompt_tokens == [len(tokens)]
    side.reception._template = None
    side.order(2, SamplingParams(max_tokens=1), (), chat=talk)
    assert "no chat template" in side.answers[1].message
    side.steps(3)


def test_texts_that_do_not_fit_together_take_turns(model):
    """The pool holds the longest request alone (else nothing is loaded), so one of them can always go on."""
    side = Side(model, max_len=512, kv_tokens=512)
    for id in (2, 3):
        side.order(id, SamplingParams(max_tokens=200, ignore_eos=True, temperature=0), ([5 + id] * 250,))
    while side.engine.core.step():
        pass
    assert side.engine.core.scheduler.stats.preemptions and side.held() == 0
    assert [sum(piece.tokens for piece in side.pieces if piece.id == id) for id in (2, 3)] == [200, 200]


def test_an_open_end_takes_the_room_there_is(side):
    side.order(1, SamplingParams(max_tokens=2**31 - 1, ignore_eos=True), ([5] * 8190,), open_ended=True)
    while side.engine.core.step():
        pass
    assert sum(piece.tokens for piece in side.pieces) == 2
    side.order(2, SamplingParams(max_tokens=16), ([5] * 8192,), open_ended=True)
    assert side.answers[-1].code == "context_length_exceeded"


def test_unexpected_failures_of_an_order_are_its_own(side, monkeypatch):
    monkeypatch.setattr(side.engine.intake, "request", lambda *_: 1 / 0)
    side.order(1)
    assert side.answers[0].status == 500 and "ZeroDivisionError" in side.answers[0].message


class Wire:
    """A wire that keeps what it is given and stops the loop when there is nothing left to hear."""

    def __init__(self, orders):
        self.sent, self.orders = [], list(orders)

    def send(self, message):
        self.sent.append(decode_news(encode(message)))

    def receive(self):
        raise AssertionError("no thread of this test receives")


def test_a_failing_step_ends_its_requests_and_the_next_ones_go_on(side, monkeypatch):
    process = engine_process.Process(side.engine, None, None, Wire(()))
    core, run = process.core, process.core.executor.launch
    order = Generate(1, LONG, ["the quick"])
    process.reception.announce(order)
    process.reception.take(order)
    core.step()

    def broken(plan):
        monkeypatch.setattr(core.executor, "launch", run)
        raise RuntimeError("the device hiccups")

    def idle():
        process._stopping = True

    monkeypatch.setattr(core.executor, "launch", broken)
    monkeypatch.setattr(process, "_idle", idle)
    monkeypatch.setattr(process, "_receive", lambda: None)
    monkeypatch.setattr(process, "_beat", lambda: None)
    process.run()
    pieces = [piece for message in process.wire.sent if isinstance(message, Pieces) for piece in message.items]
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["error", "error"]
    assert process.pulse.failures == 1 and side.held() == 0
    again = Generate(2, SamplingParams(max_tokens=2, ignore_eos=True), ["the quick"])
    process._stopping = False
    process.reception.announce(again)
    process.reception.take(again)
    process.run()
    last = [piece for message in process.wire.sent if isinstance(message, Pieces) for piece in message.items][-1]
    assert isinstance(last, Piece) and last.id == 2 and last.finish_reason == "length"


def test_a_device_that_keeps_failing_ends_the_process(side, monkeypatch):
    process = engine_process.Process(side.engine, None, None, Wire(()))
    ids = iter(range(1, 10))

    def another():
        order = Generate(next(ids), SamplingParams(max_tokens=1), ["the quick"])
        process.reception.announce(order)
        process.reception.take(order)

    def broken(plan):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(process.core.executor, "launch", broken)
    monkeypatch.setattr(process, "_idle", another)
    monkeypatch.setattr(process, "_flush", another)  # somebody always has work
    for name in ("_receive", "_beat"):
        monkeypatch.setattr(process, name, lambda: None)
    with pytest.raises(RuntimeError, match="the device is gone"):
        process.run()
    assert process.pulse.failures == engine_process.FAILURES
    process.core.fail()


def test_messages_survive_the_wire():
    for order in (Abort(3), Generate(3, SamplingParams(seed=2**64 - 1, logit_bias={3: 1.5}, stop="x"), ["a", [1, 2]])):
        assert decode_order(encode(order)) == order


def test_a_lossy_rule_is_named_with_every_answer_and_predictions_are_counted(model):
    made = Side(model, verify="typical", control=False)
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    made.order(1, params)
    made.steps(8)
    text = "".join(piece.text for piece in made.pieces)
    made.order(2, SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, prediction=text))
    made.steps(8)
    assert [answer.lossy for answer in made.answers if isinstance(answer, Accepted)] == ["typical", "typical"]
    predicted = [piece for piece in made.pieces if piece.id == 2]
    assert "".join(piece.text for piece in predicted) == text
    assert sum(piece.predicted[0] for piece in predicted) >= sum(piece.predicted[1] for piece in predicted) > 0
    assert all(piece.predicted == (0, 0) for piece in made.pieces if piece.id == 1)
