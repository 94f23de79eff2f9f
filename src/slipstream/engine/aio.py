"""AsyncLLM: the engine in this process on a thread of its own, for asyncio programs.

Owns the thread and the way of deltas into event loops. The loop itself is the same Core that LLM drives.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from slipstream.base import log
from slipstream.base.config import Options
from slipstream.base.errors import BackendError
from slipstream.engine.build import Engine, build
from slipstream.engine.intake import Prompt
from slipstream.engine.outputs import Delta
from slipstream.step import SamplingParams


class AsyncLLM:
    """Loads a model and serves concurrent requests; see LLM for the arguments."""

    def __init__(self, model: str | Path | None = None, **options: Any):
        self.engine: Engine = build(Options.of(model, options))
        self._wake = threading.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="slipstream-engine", daemon=True)
        self._thread.start()

    async def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> AsyncIterator[Delta]:
        """Yields news of one request. Leaving the loop, or cancelling the task, ends the request within one step.

        Raises:
            BackendError: the engine stopped while the request ran.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Delta] = asyncio.Queue()
        output, tickets = self.engine.intake.request(prompt, params or SamplingParams(), lambda delta: _hand_over(loop, queue, delta))
        self.engine.core.submit(tickets)
        self._wake.set()
        self._check()  # after the submission: an engine that stops later tells the ticket, one that has stopped is seen here
        try:
            while not output.finished:
                delta = await queue.get()
                if delta.finish_reason == "error":
                    await asyncio.to_thread(self._thread.join)  # the loop is on its way out; then it is known why
                    self._check()
                output.add(delta)
                yield delta
        finally:
            if not output.finished:
                self.engine.core.abort([ticket.request.number for ticket in tickets])
                self._wake.set()

    def close(self) -> None:
        """Stops the thread after the running step and ends what was still running."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self.engine.executor.close()

    def _run(self) -> None:
        core = self.engine.core
        try:
            while not self._stopping:
                # Cleared before the step: a wake-up that comes during it is seen at the next wait.
                self._wake.clear()
                if not core.step():
                    self._wake.wait()
        except BaseException as failure:
            log.get(__name__).exception("the engine's loop failed")
            self._failure = failure
        finally:
            self._stopping = True
            core.fail()

    def _check(self) -> None:
        if self._failure is not None:
            raise BackendError(f"the engine stopped: {self._failure!r}") from self._failure
        if self._stopping:
            raise BackendError("the engine was closed")


def _hand_over(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[Delta]", delta: Delta) -> None:
    if not loop.is_closed():  # the program may have gone while its request ended
        loop.call_soon_threadsafe(queue.put_nowait, delta)
