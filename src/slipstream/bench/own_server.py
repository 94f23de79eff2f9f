"""Our own server in processes of its own, as `slipstream serve` runs it, for a load test beside it.

Owns the processes and how they end: with the block that started them, whatever ends that. Must not know what is sent to them. The
first process runs this file.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipstream.base.errors import BackendError

START_SECONDS = 900.0  # a large checkpoint is packed for the first time
STOP_SECONDS = 10.0
TICK = 0.05
LAST_WORDS = 600  # characters of what it said that go into a message
SERVES = re.compile(r"serves at (http://\S+)")


class OwnServer:
    """A running server. A context manager: its processes end with it.

    Args:
        model: as for LLM.
        options: of the engine, as for LLM.

    Attributes:
        url: where it listens; any port that is free.

    Raises:
        BackendError: it ended while it loaded, or took too long; says its last words.
    """

    def __init__(self, model: str | None, options: dict[str, Any]):
        self._said = tempfile.NamedTemporaryFile(prefix="slipstream-", suffix=".log")  # noqa: SIM115 - closed in close()
        settings = json.dumps({"model": model, "engine": options, "port": 0})
        command = [sys.executable, "-m", __name__, settings]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, start_new_session=True)
        try:
            self.url = self._wait()
        except BaseException:
            self.close()
            raise

    def seconds(self) -> dict[str, float]:
        """Processor time of the front process, which speaks HTTP, and of the engine's, so far. Empty where the system does not say."""
        try:
            (engine,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            return {"front": _seconds(str(self._process.pid)), "engine": _seconds(engine)}
        except (OSError, ValueError):
            return {}

    def close(self) -> None:
        """Ends it, politely first."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the engine too: the server leads a group of its own
        self._process.wait()
        self._said.close()

    def __enter__(self) -> "OwnServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _wait(self) -> str:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            ended = self._process.poll() is not None
            said = Path(self._said.name).read_text("utf-8", "replace")
            if found := SERVES.search(said):
                return found[1]
            if ended:
                raise BackendError(f"the server did not start: {said.strip()[-LAST_WORDS:] or 'it said nothing'}")
            time.sleep(TICK)
        raise BackendError(f"the server did not start within {START_SECONDS:g} s")


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds the block as Ctrl-C does, so that what it started ends too."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _seconds(pid: str) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")  # user and system; their own threads included


if __name__ == "__main__":
    from slipstream.server.run import serve
    from slipstream.server.settings import Settings

    sys.exit(serve(Settings(**json.loads(sys.argv[1]))))
