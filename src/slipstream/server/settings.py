"""What a server is told: where it listens, whom it lets in, how much it takes. Data only."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipstream.base.errors import InputError

EXIT_ENGINE = 70  # the engine is gone and was not to be started again
BUILTIN_NAME = "slipstream-demo"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, checked before anything is allocated for it.

    Attributes:
        body: bytes of a request's body.
        samples: `n`.
        prompts: prompts in one request.
        stops: stop strings, and `stop_length` characters in each.
        biases: entries of `logit_bias`, bad_words and lists of token ids.
        messages: messages of a conversation.
        prediction: characters of `prediction`.
    """

    body: int = 8 * 2**20
    samples: int = 16
    prompts: int = 256
    stops: int = 16
    stop_length: int = 256
    biases: int = 1024
    messages: int = 2048
    prediction: int = 2**18


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's own options; those of the engine are in `engine`.

    Attributes:
        model: folder, file, id of the hub or dummy:SHAPE; None for the built-in model.
        engine: keyword arguments of `slipstream.base.config.Options`.
        host, port: where to listen; port 0 takes any.
        api_key: asked for on every route but /health/live, if given.
        model_name: what clients call the model; None: the folder's name, or what was given.
        max_queue: samples that may wait for a seat; the next request gets 429.
        restart: start the engine process again when it fails, rather than leave.
        drain: seconds that running requests have after the first SIGTERM.
        stall: seconds without progress after which the engine is given up (readiness falls earlier).
        write_timeout: seconds in which a client must read something.
    """

    model: str | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    model_name: str | None = None
    max_queue: int = 256
    restart: bool = False
    drain: float = 30.0
    stall: float = 10.0
    write_timeout: float = 30.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self):
        if self.api_key is not None and not self.api_key.strip():
            raise InputError("api_key: it is empty; leave it out to serve without one")
        for name in ("max_queue", "drain", "stall", "write_timeout"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r}: must be above 0")
        if not 0 <= self.port < 65536:
            raise InputError(f"port={self.port}: must be between 0 and 65535")

    @property
    def name(self) -> str:
        """What clients call the model."""
        if self.model_name is not None:
            return self.model_name
        if self.model is None:
            return BUILTIN_NAME
        return Path(self.model).resolve().name if Path(self.model).exists() else self.model
