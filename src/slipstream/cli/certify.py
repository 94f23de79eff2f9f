"""`slipstream certify`: does a server say the same whatever else it is doing?

Owns the requests that are sent, how many at most, and the verdict. Speaks OpenAI's completions API over the standard library, so
it can be pointed at any server; knows nothing of ours.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from slipstream.base.errors import BackendError, InputError

PROMPTS = (
    "The lighthouse keeper wrote in his book every evening, and on the night of the storm he wrote:",
    "List of the planets, with one sentence on each:\n1. Mercury:",
    "Once upon a time there was a small dragon who",
    "def fibonacci(n):\n",
)
NOISE = tuple(f"Page {number} of the report. " + "The figures of the year follow. " * number for number in range(1, 13))
SEED, SECONDS = 20240607, 120.0  # the seed sent with every request; how long one answer may take
REQUESTS = 1 + 4 * len(PROMPTS) + len(NOISE)  # all that is ever sent: the list of models, four rounds, one round of noise
SHOWN = 32  # characters shown around a difference


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a key is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(Stay)


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server.

    Attributes:
        base: address with "/v1".
        key: sent as a bearer token; None for none.
        model: the model to ask for.
    """

    base: str
    key: str | None = field(repr=False)
    model: str = ""

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request, never repeated.

        Raises:
            BackendError: there is no answer, or one that is no JSON object; says what came.
        """
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        data = None if body is None else json.dumps(body).encode()
        try:
            with _OPENER.open(urllib.request.Request(f"{self.base}{path}", data, headers), timeout=SECONDS) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace").strip()
            way = "; give --api-key" if error.code in (401, 403) else ""
            raise BackendError(f"{self.base}{path}: status {error.code}: {said or error.reason}{way}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise BackendError(f"{self.base}{path}: no usable answer ({error}); is the address right and the server up?") from error
        if not isinstance(found, dict):
            raise BackendError(f"{self.base}{path}: answered {str(found)[:80]!r}, no JSON object; is it an OpenAI-compatible server?")
        return found

    def complete(self, prompt: str, tokens: int) -> str:
        """The greedy continuation of a prompt."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "seed": SEED}
        found = self.call("/completions", body)
        try:
            return str(found["choices"][0]["text"])
        except (KeyError, IndexError, TypeError) as error:
            raise BackendError(f"{self.base}/completions: no choices[0].text in {json.dumps(found)[:200]}") from error


def certify(
    url: Annotated[str, typer.Argument(help="Address of the server, for instance http://127.0.0.1:8000.")],
    model: Annotated[str | None, typer.Option(help="Model to ask for (default: the server's first).", show_default=False)] = None,
    api_key: Annotated[str | None, typer.Option(help="Key to send.", show_default=False)] = None,
    tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of each answer.")] = 48,
) -> None:
    """Asks the server at URL the same questions alone, together and under load. Exit code 0: same texts; 1: not; 2: no answer."""
    server = reach(url, model, api_key)
    typer.echo(f"{server.base}, model {server.model}: {REQUESTS} requests at most, temperature 0, seed {SEED}, {tokens} tokens each")
    expected = {prompt: server.complete(prompt, tokens) for prompt in PROMPTS}
    if not any(expected.values()):
        raise BackendError(f"{server.base}: all texts are empty, so there is nothing to compare; take another model")
    refused: list[str] = []
    rounds = {
        "alone, again": {prompt: server.complete(prompt, tokens) for prompt in PROMPTS},
        "all at once": together(server, PROMPTS, tokens),
        "under load": together(server, PROMPTS, tokens, NOISE, refused),
    }
    typer.echo(f"alone         reference: {len(PROMPTS)} texts, {sum(map(len, expected.values()))} characters")
    wrong = 0
    for name, found in rounds.items():
        lines = [line for number, prompt in enumerate(PROMPTS, 1) for line in difference(number, expected[prompt], found[prompt])]
        wrong += len(lines)
        typer.echo(f"{name:<14}{'PASS' if not lines else 'FAIL'}: {len(PROMPTS) - len(lines)} of {len(PROMPTS)} texts the same")
        for line in lines:
            typer.echo(f"  {line}")
    if refused:
        typer.echo(f"note: the load was lighter than meant, {len(refused)} of its {len(NOISE)} requests failed: {refused[0]}")
    if wrong:
        typer.echo(f"not certified: {wrong} of {len(rounds) * len(PROMPTS)} texts depended on what else the server did")
        raise typer.Exit(1)
    typer.echo("certified: the same texts alone, again, together and under load")


def reach(url: str, model: str | None, key: str | None) -> Server:
    """The server, and its first model where none is named."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"URL={url!r}: must begin with http:// or https://")
    bare = url.rstrip("/")
    server = Server(bare if bare.endswith("/v1") else f"{bare}/v1", key)
    if model is None:
        found = server.call("/models").get("data")
        try:
            model = str(found[0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise BackendError(f"{server.base}/models: names no model; give --model") from error
    return Server(server.base, key, model)


def together(
    server: Server, prompts: Sequence[str], tokens: int, noise: Sequence[str] = (), refused: list[str] | None = None
) -> dict[str, str]:
    """The texts of all prompts, sent at the same time, the noise before them. Noise that fails is told in `refused`."""
    with ThreadPoolExecutor(len(prompts) + len(noise)) as pool:
        others = [pool.submit(server.complete, text, tokens) for text in noise]
        running = {prompt: pool.submit(server.complete, prompt, tokens) for prompt in prompts}
    if refused is not None:
        refused += [str(error) for other in others if (error := other.exception()) is not None]
    return {prompt: answer.result() for prompt, answer in running.items()}


def difference(number: int, expected: str, found: str) -> list[str]:
    """[] for the same text; else one line on where they part."""
    if expected == found:
        return []
    at = next((at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found)))
    begin = max(0, at - SHOWN // 2)
    return [f"prompt {number}, from character {at}: {expected[begin : at + SHOWN]!r} alone, {found[begin : at + SHOWN]!r} now"]
