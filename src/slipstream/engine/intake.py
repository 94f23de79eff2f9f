"""Intake: from a prompt and parameters to requests that are certain to fit. Everything a user can get wrong is found
here, in the user's own thread, before the loop sees it."""

import itertools
import os
import time
from collections.abc import Sequence

from slipstream.base.errors import CapacityError, InputError
from slipstream.engine.core import Sink, Ticket
from slipstream.engine.outputs import Completion, RequestOutput
from slipstream.scheduler import Request
from slipstream.step import SamplingParams
from slipstream.text.stream import NoText, TextStream
from slipstream.text.tokenizer import Tokenizer

Prompt = str | Sequence[int]


class Intake:
    """Makes tickets.

    Args:
        tokenizer: None for models without one (random weights of a named shape): prompts are then token ids.
        vocab: number of logits.
        max_len: longest request, prompt and output.
        room: tokens that fit into the KV pool.
        verify: rule by which drafts are checked, named in every output.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab: int, max_len: int, room: int, verify: str = "match"):
        self.tokenizer, self.vocab, self.max_len, self.room, self.verify = tokenizer, vocab, max_len, room, verify
        self._numbers = itertools.count()

    def request(self, prompt: Prompt, params: SamplingParams, sink: Sink | None = None) -> tuple[RequestOutput, list[Ticket]]:
        """Checks one prompt and makes its n tickets, which share the prompt's pages.

        Returns:
            The output, still empty, and the tickets to submit. Deltas go to `sink`, to somebody who reads along, or straight into
            the output.
        """
        tokens = self._tokens(prompt)
        self._check(tokens, params)
        seed = params.seed if params.seed is not None else int.from_bytes(os.urandom(8), "little")
        ends = self.tokenizer.ends if self.tokenizer is not None else ()
        text = prompt if isinstance(prompt, str) else None
        prediction = self._prediction(params)
        output = RequestOutput(text, tokens, [Completion(sample) for sample in range(params.n)], verify=self.verify)
        leader, tickets = None, []
        for sample in range(params.n):
            request = Request(
                number=next(self._numbers),
                tokens=list(tokens),
                params=params,
                seed=seed,
                sample=sample,
                arrival=time.monotonic(),
                leader=leader,
                ends=ends,
                banned=self._banned(params),
                prediction=prediction,
                streamed=sink is not None,
            )
            leader = request.number if leader is None else leader
            stream = NoText() if self.tokenizer is None else TextStream(self.tokenizer, params.stop, tokens)
            tickets.append(Ticket(request, stream, sink or output.add))
        return output, tickets

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InputError(f"prompt={prompt[:40]!r}: this model has no tokenizer; give token ids")
            tokens = self.tokenizer.encode(prompt)
        else:
            tokens = list(prompt)
            wrong = [token for token in tokens if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocab]
            if wrong:
                raise InputError(f"prompt: {wrong[0]!r} is not a token id; they are whole numbers from 0 to {self.vocab - 1}")
        if not tokens:
            raise InputError("prompt: it is empty, and the model needs at least one token to begin with")
        return tokens

    def _check(self, tokens: list[int], params: SamplingParams) -> None:
        if len(tokens) + min(params.max_tokens, 1) > self.max_len:
            raise InputError(f"prompt: {len(tokens)} tokens leave no room in max_len={self.max_len}; shorten it or raise max_len")
        most = min(len(tokens) + params.max_tokens, self.max_len)
        if most > self.room:
            raise CapacityError(
                f"prompt of {len(tokens)} and max_tokens={params.max_tokens} need KV for {most} tokens, the pool holds {self.room}; "
                "lower max_tokens or raise memory"
            )
        named = {
            "allowed_token_ids": params.allowed_token_ids or (),
            "logit_bias": params.logit_bias,
            "stop_token_ids": params.stop_token_ids,
        }
        for name, ids in named.items():
            for token in ids:
                if not 0 <= token < self.vocab:
                    raise InputError(f"{name}: {token} is not a token id; they go from 0 to {self.vocab - 1}")
        if self.tokenizer is None and (params.stop or params.bad_words):
            raise InputError("stop, bad_words: this model has no tokenizer, so texts mean nothing to it; use stop_token_ids or logit_bias")

    def _prediction(self, params: SamplingParams) -> tuple[int, ...]:
        """As far as a text can become."""
        if not params.prediction:
            return ()
        if self.tokenizer is None:
            raise InputError("prediction: this model has no tokenizer, so a text means nothing to it; leave it out")
        return tuple(self.tokenizer.encode(params.prediction, special=False)[: self.max_len])

    def _banned(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """Each bad word as tokens, at the beginning of a text and after a space."""
        forms = (form for word in params.bad_words for form in (word, " " + word.lstrip()))
        return tuple({tuple(self.tokenizer.encode(form, special=False)): None for form in forms})
