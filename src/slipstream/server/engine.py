"""The engine process: loads the model, then runs the loop until it is told to stop. Started by link.py with `python -m`.

    main thread   steps; hands over what each brought
    receiver      takes orders from the wire; aborts go to the loop at once, the rest to two clerks
    clerks        tokenise, check, submit (reception.py)
    heart         sends a beat several times a second, whatever the loop does

Owns these threads and how the process ends. Texts belong to the core, orders to the reception, health to the front. When the
front is gone (its end of our stdin closes), so is this process.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import zmq

import slipstream
from slipstream.base import log
from slipstream.base.config import Options
from slipstream.base.errors import InputError, SlipstreamError
from slipstream.cost import Work
from slipstream.engine.build import Engine, build
from slipstream.engine.limit import Limit
from slipstream.engine.meter import StepRecord
from slipstream.model.build import DUMMY
from slipstream.server.messages import Abort, Failed, Hello, Message, Piece, Pieces, Stop, decode_order, encode
from slipstream.server.pooling import Pooling
from slipstream.server.pulse import Doorman, Pulse
from slipstream.server.reception import Reception
from slipstream.step import SamplingParams
from slipstream.text.template import ChatTemplate
from slipstream.weights.hub import locate

BEAT = 0.25  # seconds between two beats
PROBE_EVERY = 60.0  # seconds between two probes of the machine, taken only when there is nothing to do
READINGS = 9  # probes remembered
FAILURES = 3  # failed steps in a row after which the device is given up
CLERKS = 2


class Wire:
    """Our ends of the two sockets. Sending is safe from any thread; one thread receives.

    Args:
        folder: the private folder where the front listens.
    """

    def __init__(self, folder: Path):
        context = zmq.Context.instance()
        self._lock = threading.Lock()
        self._out = context.socket(zmq.PUSH)
        self._out.setsockopt(zmq.LINGER, 500)
        self._out.connect(f"ipc://{folder}/news")
        self._in = context.socket(zmq.PULL)
        self._in.connect(f"ipc://{folder}/orders")

    def send(self, message: Message) -> None:
        """Waits while the front is far behind: its memory is bounded too."""
        with self._lock:
            self._out.send(encode(message))

    def receive(self) -> Any:
        return decode_order(self._in.recv())


class Process:
    """The loop with everything around it.

    Args:
        engine: loaded and empty.
        limit: what the machine can do; None where it cannot be said.
        template: of chats, if the model has one.
        wire: the way to the front.
    """

    def __init__(self, engine: Engine, limit: Limit | None, template: ChatTemplate | None, wire: Wire):
        self.engine, self.limit, self.wire = engine, limit, wire
        self.core = engine.core
        self.pulse = self.core.meter = Pulse()
        self.reception = attend(engine, template, wire.send, self._deliver)
        self._pieces: list[Piece] = []
        self._wake = threading.Event()
        self._stopping = False
        self._busy = False  # from a wake-up to the step that finds nothing to do
        self._probed = time.monotonic()

    def run(self) -> None:
        """Steps until a Stop. Raises what a step raised when it keeps failing."""
        for work in (self._receive, self._beat):
            threading.Thread(target=work, name=work.__name__.strip("_"), daemon=True).start()
        failed = 0
        while not self._stopping:
            self._wake.clear()  # before the step: a wake-up that comes during it is seen at the next wait
            self._busy = True
            try:
                moved = self.core.step()
                failed = 0 if moved else failed
            except Exception:  # the core has ended all texts with "error" and is empty
                log.get(__name__).exception("a step failed; the requests in it were ended")
                self.pulse.failures += 1
                failed, moved = failed + 1, True
                if failed == FAILURES:
                    self._flush()
                    raise
            self._flush()
            if not moved:
                self._busy = False
                self._idle()

    def _idle(self) -> None:
        if self.limit is not None and time.monotonic() - self._probed > PROBE_EVERY and self.pulse.count:
            self.limit.probe(0.05)
            del self.limit.readings[:-READINGS]
            self._probed = time.monotonic()
        self._wake.wait()

    def _deliver(self, piece: Piece) -> None:
        self._pieces.append(piece)

    def _flush(self) -> None:
        if self._pieces:
            self.wire.send(Pieces(self._pieces))
            self._pieces = []

    def _receive(self) -> None:
        clerks = ThreadPoolExecutor(CLERKS, thread_name_prefix="clerk")
        while True:
            order = self.wire.receive()
            if isinstance(order, Stop):
                self._stopping = True
                self._wake.set()
                return
            if isinstance(order, Abort):
                self.reception.abort(order.id)
                self._wake.set()
            else:
                self.reception.announce(order)
                clerks.submit(self._take, order)

    def _take(self, order: Any) -> None:
        self.reception.take(order)
        self._wake.set()

    def _beat(self) -> None:
        while True:
            self.wire.send(self.pulse.beat(self.core, self.limit, self._busy or self._wake.is_set()))
            time.sleep(BEAT)


def attend(
    engine: Engine, template: ChatTemplate | None, answer: Callable[[Message], None], deliver: Callable[[Piece], None]
) -> Reception:
    """A reception for the engine, told of what its executor does."""
    runner = engine.executor.runner
    runner.decoder = pooling = Pooling(runner.decoder)
    reception = Reception(engine, template, pooling, answer, deliver)
    engine.core.executor = Doorman(engine.core.executor, reception.seated, pooling.begin)
    return reception


def find(model: str | None) -> str | None:
    """Where the model lies; an id that is not in the cache is downloaded once, here."""
    return model if model is None or model.startswith(DUMMY) else str(locate(model))


def find_template(model: str | None, engine: Engine) -> ChatTemplate | None:
    """The chat template of the model, if it has one that can be used; without, the reason is logged."""
    if engine.intake.tokenizer is None or model is None:  # the built-in model continues texts
        return None
    try:
        return ChatTemplate.load(locate(model))
    except InputError as error:
        log.get(__name__).warning("no chats: %s", error)
        return None


def warm_up(engine: Engine) -> float:
    """Runs the largest step that there can be, so that a broken device shows before the first request. Returns its seconds."""
    config = engine.config
    tokens = [1 % config.spec.vocab] * min(config.scheduler.max_step_tokens, config.max_len - 1, engine.intake.room - 1)
    _, tickets = engine.intake.request(tokens or [0], SamplingParams(max_tokens=1, temperature=0))
    engine.core.submit(tickets)
    longest = 0.0
    while True:
        began = time.perf_counter()
        if not engine.core.step():
            engine.core.scheduler.tables.prefix.clear()
            return longest
        longest = max(longest, time.perf_counter() - began)


def hello(engine: Engine, limit: Limit, chat: bool, step: float) -> Hello:
    """The facts that the front tells its clients."""
    config = engine.config
    one = StepRecord(Work.of([(min(256, config.max_len - 1), 1, ())], sampled=1), 1, 1, 0.0)
    tokenizer = engine.intake.tokenizer
    return Hello(
        model=config.model_name,
        profile=config.profile,
        version=slipstream.__version__,
        max_len=config.max_len,
        max_batch=config.max_batch,
        vocab=config.spec.vocab,
        pages=config.scheduler.pages,
        page_size=config.scheduler.page_size,
        text=tokenizer is not None,
        chat=chat,
        demo=config.demo,
        step=step,
        limit=1 / limit.seconds(one),
        binds=limit.binds([one]),
        verify=config.verify,
        exact=config.exact,
    )


def leave_with_front() -> None:
    """Ends this process when the front's end of our stdin closes, however the front came to its end."""
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin: its lock would be held when this process ends by itself
        pass
    os._exit(1)


def main() -> None:
    """Reads what to load from the first line of stdin, says Hello, and serves."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the front decides; a Ctrl-C on the terminal reaches us both
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the front asks for it before it gives a frozen engine up
    told = msgspec.json.decode(sys.stdin.buffer.readline())
    threading.Thread(target=leave_with_front, name="front", daemon=True).start()
    wire = Wire(Path(told["folder"]))
    try:
        model = find(told["model"])
        engine = build(Options.of(model, told["engine"]))
        config, step = engine.config, warm_up(engine)
        sizes = config.spec, config.weight_format, config.kv, config.threads, min(256, config.max_len)
        limit = Limit(*sizes, engine.kernels.device, config.activations)
        for _ in range(3):
            limit.probe()
    except SlipstreamError as error:
        wire.send(Failed(str(error), True))
        sys.exit(2)
    except Exception as error:
        wire.send(Failed(f"{type(error).__name__}: {error}", False))
        raise
    template = find_template(model, engine)
    process = Process(engine, limit, template, wire)
    wire.send(hello(engine, limit, template is not None, step))
    process.run()


if __name__ == "__main__":
    main()
