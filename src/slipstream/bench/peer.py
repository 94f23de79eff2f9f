"""A peer: another engine in a process of its own, asked over pipes, one turn at a time.

Owns the process: its Python, its environment, its time, its end. What a turn measures is the business of its file in `peers/`.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from slipstream.base.errors import BackendError, InputError

LOAD_SECONDS, TURN_SECONDS = 900.0, 900.0  # vLLM takes three minutes to start; a long prompt on two cores may take one
GRACE = 5.0  # seconds to end by itself after its input ended
TURNS = Path(__file__).parent / "peers" / "_turns.py"
LAST_WORDS = 600  # characters of its stderr that go into a message


def python_of(venv: Path | str) -> Path:
    """The Python of a venv.

    Raises:
        InputError: there is none.
    """
    for python in (Path(venv) / "bin" / "python", Path(venv) / "Scripts" / "python.exe"):
        if python.is_file():
            return python
    raise InputError(f"peer venv {str(venv)!r}: has no bin/python; make it with python3 -m venv {venv}")


class Peer:
    """One running engine. A context manager: whatever happens, its process and what that started end with it.

    Args:
        name: for messages.
        python: interpreter of its venv.
        file: its script.
        threads: what the libraries that read such variables are told as well.
        load_seconds, turn_seconds: the longest that loading and any other turn may take.

    Every method raises BackendError where the peer fails, ends, or is silent for longer than that; it is ended then.
    """

    def __init__(
        self, name: str, python: Path, file: Path, threads: int, load_seconds: float = LOAD_SECONDS, turn_seconds: float = TURN_SECONDS
    ):
        self.name, self._load_seconds, self._turn_seconds = name, load_seconds, turn_seconds
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))}
        try:
            self._process = subprocess.Popen(
                [python, "-I", TURNS, file],  # -I: neither our paths nor the script's folder hide the engine's modules
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._said.close()
            raise BackendError(f"{name}: {python} cannot be started ({error.strerror})") from error
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)

    def load(self, weights: Path, threads: int, batch: int, length: int) -> dict[str, str]:
        """Loads the weights; the peer's facts. Sizes as in `peers/__init__.py`."""
        sizes = {"threads": threads, "batch": batch, "length": length}
        return self._turn({"do": "load", "weights": str(weights), **sizes}, self._load_seconds)

    def prompt(self, tokens: list[int]) -> dict[str, Any]:
        """{"seconds", "first"}, see `peers/__init__.py`."""
        return self._turn({"do": "prompt", "tokens": tokens}, self._turn_seconds)

    def decode(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        """{"seconds", "tokens"}, see `peers/__init__.py`."""
        return self._turn({"do": "decode", "prompts": prompts, "steps": steps}, self._turn_seconds)

    def close(self) -> None:
        """Ends it, politely first."""
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also what it left behind: it leads a group of its own
        self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _turn(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        line = self._exchange((json.dumps(task) + "\n").encode(), task["do"], seconds)
        try:
            answer = json.loads(line)
            if "error" not in answer:
                return answer["answer"]
        except (ValueError, TypeError, KeyError):
            raise BackendError(f"{self.name}: answered {task['do']!r} with {line[:80]!r}, not with a line of JSON") from None
        raise BackendError(f"{self.name}: {task['do']} failed: {answer['error']}")

    def _exchange(self, sent: bytes, do: str, seconds: float) -> bytes:
        """Writes a line and reads one, both within `seconds`."""
        deadline, got = time.monotonic() + seconds, b""
        stdin, stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        with selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ)
            waiting.register(stdin, selectors.EVENT_WRITE)
            while not got.endswith(b"\n"):
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    self._process.kill()
                    raise BackendError(f"{self.name}: no answer to {do!r} within {seconds:g} s; it was ended{self._last_words()}")
                for key, _ in ready:
                    if key.fd == stdout:
                        part = os.read(stdout, 65536)
                        got += part
                        if not part:
                            raise BackendError(f"{self.name}: {self._ending()} during {do!r}{self._last_words()}")
                        continue
                    try:
                        sent = sent[os.write(stdin, sent) :]
                    except BrokenPipeError:
                        sent = b""  # it ended; reading says so
                    if not sent:
                        waiting.unregister(stdin)
        return got

    def _ending(self) -> str:
        try:
            status = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"ended with signal {-status}" if status < 0 else f"ended with status {status}"

    def _last_words(self) -> str:
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - LAST_WORDS))
        words = self._said.read().decode("utf-8", "replace").strip()
        return f"; it said: {words}" if words else "; it said nothing"
