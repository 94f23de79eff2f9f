"""Reception: from the front's orders to tickets of the loop, and from the loop's deltas to pieces for the front.

Owns which texts belong to which order. Runs in threads beside the loop, so that a long prompt being tokenised does not hold up
a step. Everything a client can get wrong about tokens and lengths is answered here, before the loop hears of it.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from slipstream.base import log
from slipstream.base.errors import CapacityError, InputError
from slipstream.engine.build import Engine
from slipstream.engine.core import Ticket
from slipstream.engine.outputs import Delta
from slipstream.server.messages import (
    Accepted,
    Chat,
    Detokenize,
    Generate,
    Message,
    Order,
    Piece,
    Refused,
    Scored,
    Text,
    Token,
    Tokenize,
    Tokens,
)
from slipstream.server.pooling import Pooling
from slipstream.step import SamplingParams, TokenLogprobs
from slipstream.text.template import ChatTemplate

LEAST = -9999.0  # log-probability of what cannot be; JSON has no infinity
SURELY_SHORT = 2**20  # bytes of text that are tokenised without asking how long they may become


class TooLong(InputError):
    """A prompt that leaves no room for what is asked."""


@dataclass(slots=True)
class Live:
    """An order under way: the numbers of its texts, and how many of them go on."""

    numbers: list[int]
    open: int


@dataclass(slots=True)
class Seat:
    """A text's way to its seat: when it came, how long it waited, how much of its prompt was known; and what it is called."""

    arrived: float
    number: int = -1
    queued: float | None = None
    cached: int = 0
    told: bool = False


class Reception:
    """Takes orders in.

    Args:
        engine: whose loop runs the texts.
        template: makes a prompt of a conversation; None where the model has none.
        pooling: keeps prompts' states.
        answer: sends a message to the front; safe from any thread.
        deliver: hands a piece of text over, in the loop's thread.
    """

    def __init__(
        self,
        engine: Engine,
        template: ChatTemplate | None,
        pooling: Pooling,
        answer: Callable[[Message], None],
        deliver: Callable[[Piece], None],
    ):
        self.engine, self._template, self._pooling = engine, template, pooling
        self._rendering = threading.Lock()  # a template renders one thing at a time
        self._answer, self._deliver = answer, deliver
        self._lock = threading.Lock()
        self._live: dict[int, Live] = {}
        self._pending: set[int] = set()  # announced, not submitted yet
        self._seats: dict[int, Seat] = {}
        self._longest = 0

    def announce(self, order: Order) -> None:
        """Notes an order at once, in the order of the wire; `take` may come later, in another thread."""
        if isinstance(order, Generate):
            with self._lock:
                self._pending.add(order.id)

    def take(self, order: Order) -> None:
        """Does an order, whatever it is."""
        try:
            if isinstance(order, Generate):
                self._generate(order)
            elif isinstance(order, Tokenize):
                tokens = [self._token(token) for token in self._encode(order.prompt, order.chat, order.special)]
                texts = [token.bytes.decode("utf-8", "replace") for token in tokens]
                self._answer(Tokens(order.id, [token.id for token in tokens], texts))
            elif isinstance(order, Detokenize):
                self._answer(Text(order.id, self._decode(order.tokens)))
        except (InputError, CapacityError) as error:
            self._refuse(order.id, error)
        except Exception as error:  # of this order alone; the loop has not heard of it
            log.get(__name__).exception("an order could not be taken in")
            self._answer(Refused(order.id, 500, "engine_error", None, f"the request could not be taken in: {type(error).__name__}"))
        finally:
            with self._lock:
                self._pending.discard(order.id)

    def abort(self, id: int) -> None:
        """Ends an order's texts before the next step, wherever they are."""
        with self._lock:
            self._pending.discard(id)
            live = self._live.get(id)
        if live is not None:
            self.engine.core.abort(live.numbers)

    def seated(self, number: int, cached: int) -> None:
        """A text has got its seat. After a preemption it gets one again, which is not told."""
        seat = self._seats.get(number)
        if seat is not None and seat.queued is None:
            seat.queued, seat.cached = time.monotonic() - seat.arrived, cached

    # From prompts to tickets

    def _generate(self, order: Generate) -> None:
        scored = order.params.prompt_logprobs is not None
        if order.echo and self.engine.intake.tokenizer is None:
            raise InputError("echo: this model has no tokenizer, so a prompt has no text")
        prompts = [self._encode("", order.chat, False)] if order.chat else [self._tokens(prompt) for prompt in order.prompts]
        tickets: list[Ticket] = []
        for at, tokens in enumerate(prompts):
            params = self._bounded(tokens, order.params, order.open_ended)
            seats = [Seat(time.monotonic()) for _ in range(params.n)]
            _, made = self.engine.intake.request(tokens, params, self._sink(order, at * params.n, seats))
            for ticket in made:
                if order.pooling is not None:
                    self._pooling.want(ticket.request.number, order.pooling, order.normalize)
                seats[ticket.request.sample].number = ticket.request.number
                self._seats[ticket.request.number] = seats[ticket.request.sample]
            tickets.extend(made)
        accepted = Accepted(
            order.id,
            [len(tokens) for tokens in prompts],
            [prompt if isinstance(prompt, str) else self._decode(prompt) for prompt in order.prompts] if order.echo else None,
            [self._token(tokens[0]) for tokens in prompts] if order.echo and scored else None,
            None if self.engine.config.exact else self.engine.config.verify,
        )
        with self._lock:
            if order.id not in self._pending:  # the client has gone
                for ticket in tickets:
                    self._seats.pop(ticket.request.number)
                    self._pooling.take(ticket.request.number)
                return
            self._live[order.id] = Live([ticket.request.number for ticket in tickets], len(tickets))
            self._answer(accepted)  # before the first piece
            self.engine.core.submit(tickets)  # still locked: an abort must not overtake it

    def _bounded(self, tokens: list[int], params: SamplingParams, open_ended: bool) -> SamplingParams:
        """The parameters with as many tokens as there is room for, where the client named no number.

        Raises:
            TooLong: the context cannot hold what is asked for.
        """
        longest, length, asked = self.engine.config.max_len, len(tokens), params.max_tokens
        if not open_ended and length + asked > longest or length + min(asked, 1) > longest:
            more = "" if open_ended else f", max_tokens asks for {asked}"
            raise TooLong(f"prompt: it has {length} tokens{more}; together they must fit into the context of {longest}")
        if not open_ended:
            return params
        room = min(longest, self.engine.intake.room) - length
        return replace(params, max_tokens=max(min(asked, room), 1)) if asked > room else params

    def _sink(self, order: Generate, base: int, seats: Sequence[Seat]) -> Callable[[Delta], None]:
        """Makes pieces of the deltas of one prompt's samples."""

        def sink(delta: Delta) -> None:
            seat = seats[delta.index]
            queued, seat.told = (None if seat.told else seat.queued), seat.told or seat.queued is not None
            piece = Piece(
                order.id,
                base + delta.index,
                delta.text,
                len(delta.token_ids),
                self._scored(delta.logprobs),
                self._scored(delta.prompt_logprobs) if order.pooling is None else None,
                delta.finish_reason,
                queued,
                seat.cached,
                self._pooling.take(seat.number) if delta.finish_reason is not None else b"",
                delta.predicted,
            )
            if delta.finish_reason is not None:
                self._ended(order.id, seat.number)
            self._deliver(piece)

        return sink

    def _ended(self, id: int, number: int) -> None:
        self._seats.pop(number, None)
        with self._lock:
            live = self._live[id]
            live.open -= 1
            if not live.open:
                del self._live[id]

    # Tokens and their texts

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._encode(prompt)
        self._check_ids("prompt", prompt)
        return prompt

    def _encode(self, text: str, chat: Chat | None = None, special: bool = True) -> list[int]:
        """Token ids of a text, or of a conversation as its template writes it."""
        tokenizer = self.engine.intake.tokenizer
        if tokenizer is None:
            raise InputError("prompt: this model has no tokenizer; give token ids to /v1/completions")
        if chat is not None:
            if self._template is None:
                raise InputError("messages: this model has no chat template; continue a text with /v1/completions")
            with self._rendering:
                text, special = self._template.render(chat.messages, **chat.variables), False
        if len(text) > SURELY_SHORT and len(text) > self.engine.config.max_len * self._longest_token():
            raise TooLong(f"prompt: {len(text)} characters cannot fit into the context of {self.engine.config.max_len} tokens; shorten it")
        return tokenizer.encode(text, special=special)

    def _longest_token(self) -> int:
        if not self._longest:
            tokenizer = self.engine.intake.tokenizer
            self._longest = max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
        return self._longest

    def _decode(self, tokens: list[int]) -> str:
        if self.engine.intake.tokenizer is None:
            raise InputError("tokens: this model has no tokenizer")
        self._check_ids("tokens", tokens)
        return self.engine.intake.tokenizer.decode(tokens, skip_special=False)

    def _check_ids(self, field: str, tokens: list[int]) -> None:
        vocab = self.engine.config.spec.vocab
        if tokens and not (min(tokens) >= 0 and max(tokens) < vocab):
            wrong = next(token for token in tokens if not 0 <= token < vocab)
            raise InputError(f"{field}: {wrong} is not a token id; they go from 0 to {vocab - 1}")

    def _token(self, token: int) -> Token:
        tokenizer = self.engine.intake.tokenizer
        return Token(token, b"" if tokenizer is None else tokenizer.token_bytes(token))

    def _scored(self, entries: Sequence[TokenLogprobs] | None) -> list[Scored] | None:
        if entries is None:
            return None
        out = []
        for entry in entries:
            likely = [(self._token(token), max(LEAST, value)) for token, value in entry.top]
            out.append(Scored(self._token(entry.token), max(LEAST, entry.logprob), likely))
        return out

    def _refuse(self, id: int, error: InputError | CapacityError) -> None:
        field = re.match(r"(\w+)[=:\[]", str(error))
        code = "context_length_exceeded" if isinstance(error, TooLong | CapacityError) else "invalid_value"
        self._answer(Refused(id, 400, code, field.group(1) if field else None, str(error)))
