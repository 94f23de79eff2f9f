"""`slipstream chat`: a conversation on the terminal.

Owns the conversation as the user sees it: what was said, the /commands, and how an answer is stopped. Answers alone go to stdout,
everything about them to stderr. Every turn sends the whole conversation again; what the engine's prefix cache still holds of it
costs nothing, and the line after each answer says how much that was.
"""

import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.errors import InputError, SlipstreamError
from slipstream.base.registry import unknown
from slipstream.bench import arguments
from slipstream.cli.run import SEEDS, Clock, as_tokens, describe, tell

if TYPE_CHECKING:
    from slipstream.engine.limit import Limit
    from slipstream.engine.llm import LLM
    from slipstream.engine.outputs import Delta, RequestOutput
    from slipstream.step import SamplingParams
    from slipstream.text.template import ChatTemplate

FENCE = '"""'
SETTABLE = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"
)  # fmt: skip
HELP = """\
/help                this list
/reset               forget the conversation
/system TEXT         tell the model how to behave (without TEXT: no longer)
/set NAME VALUE      for instance /set temperature 0.7 (without both: show all)
/save FILE           write the conversation as JSON messages into a new file
/exit                leave (or Ctrl-D); Ctrl-C stops an answer
A line that ends with \\ goes on in the next one; \"\"\" begins and ends several lines."""


def chat(
    model: arguments.ModelArgument = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="How the model shall behave.", show_default=False)] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens that hold this share.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one answer at most.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Repeats a conversation (default: drawn).", show_default=False)] = None,
    device: arguments.Device = "cpu",
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    activations: arguments.Activations = None,
    kv: arguments.Kv = None,
    max_len: arguments.MaxLen = None,
    memory: arguments.Memory = None,
    speculate: arguments.Speculate = "auto",
    verify: arguments.Verify = "match",
) -> None:
    """Talks with MODEL. /help lists what can be typed besides."""
    from slipstream.step import SamplingParams

    seed = random.randrange(SEEDS) if seed is None else seed
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    options = arguments.given(
        threads=threads, quant=quant, activations=activations, kv=kv, max_len=max_len, memory=arguments.parse_size(memory)
    )

    from slipstream.engine.llm import LLM

    llm = LLM(model, device=device, speculate=speculate, verify=verify, max_batch=1, **options)
    describe(llm, seed)
    template = template_of(model, llm)
    if template is not None:
        talk: Talk = Messages(llm, template, system)
    elif system is None:
        talk = Continued(llm)
    else:
        raise InputError(f"--system {system[:40]!r}: this model has no chat template, so it knows no roles; leave it out")
    tell("/help lists commands, Ctrl-D leaves.")
    Session(llm, talk, params).run(Lines())
    llm.close()


def template_of(model: str | None, llm: "LLM") -> "ChatTemplate | None":
    """The model's chat template; where there is none that can be used, says so and why."""
    from slipstream.text.template import ChatTemplate
    from slipstream.weights.hub import locate

    reason = "this model has no chat template"
    if llm.engine.intake.tokenizer is None:
        reason = "this model has no tokenizer, so texts are token ids like '1 2 3'"
    elif model is not None:
        try:
            return ChatTemplate.load(locate(model))
        except InputError as error:
            reason = str(error)
    tell(f"No chat: {reason}. It continues the text that you begin, instead of answering.")
    return None


class Lines:
    """What the user types, or what is piped in."""

    def __init__(self):
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        if self.typed:
            import readline  # noqa: F401  (line editing and history for input())

    def entry(self) -> str | None:
        """The next entry, which may have several lines; None at the end of the input."""
        line = self._line("> ")
        if line is None:
            return None
        if line.lstrip().startswith(FENCE):
            return self._fenced(line.lstrip().removeprefix(FENCE))
        whole = []
        while line is not None and line.endswith("\\"):
            whole.append(line[:-1])
            line = self._line("… ")
        return "\n".join([*whole, *([] if line is None else [line])])

    def _fenced(self, line: str | None) -> str:
        whole = []
        while line is not None and not line.rstrip().endswith(FENCE):
            whole.append(line)
            line = self._line("… ")
        return "\n".join([*whole, *([] if line is None else [line.rstrip().removesuffix(FENCE)])]).strip("\n")

    def _line(self, prompt: str) -> str | None:
        if not self.typed:
            line = sys.stdin.readline() if sys.stdin is not None else ""
            return line.rstrip("\r\n") if line else None
        try:
            return input(prompt)
        except EOFError:
            return None


class Messages:
    """A conversation of a model with a chat template.

    Args:
        llm: who answers.
        template: makes the prompt of messages.
        system: text before the first message, if any.
    """

    def __init__(self, llm: "LLM", template: "ChatTemplate", system: str | None = None):
        self.tokenizer, self.template, self.system = llm.engine.intake.tokenizer, template, system
        self.turns: list[dict[str, str]] = []

    def prompt(self, text: str) -> list[int]:
        """Token ids of everything said so far and of `text`."""
        return self.tokenizer.encode(self.template.render([*self.messages(), {"role": "user", "content": text}]), special=False)

    def keep(self, text: str, output: "RequestOutput") -> None:
        """Remembers one turn."""
        self.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": output.outputs[0].text}]

    def reset(self) -> None:
        self.turns.clear()

    def instruct(self, text: str) -> None:
        """A new system message, from the next turn on; "" for none."""
        self.system = text or None

    def messages(self) -> list[dict[str, str]]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]


class Continued:
    """A text that user and model write in turns, for a model without a chat template. What the user adds begins a new line.

    Args:
        llm: who goes on; without a tokenizer the text consists of token ids.
    """

    def __init__(self, llm: "LLM"):
        self.tokenizer = llm.engine.intake.tokenizer
        self.reset()

    def prompt(self, text: str) -> list[int]:
        if self.tokenizer is None:
            return self.tokens + as_tokens(text)
        if self.tokens:
            return self.tokens + self.tokenizer.encode("\n" + text, special=False)
        return self.tokenizer.encode(text)

    def keep(self, text: str, output: "RequestOutput") -> None:
        sample = output.outputs[0]
        self.tokens = [*output.prompt_token_ids, *sample.token_ids]
        said = sample.text if self.tokenizer is not None else " ".join(map(str, sample.token_ids))
        self.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]

    def reset(self) -> None:
        self.tokens: list[int] = []
        self.turns: list[dict[str, str]] = []

    def instruct(self, text: str) -> None:
        raise InputError(f"/system {text[:40]!r}: this model has no chat template, so it knows no roles; write it into the text itself")

    def messages(self) -> list[dict[str, str]]:
        return self.turns


Talk = Messages | Continued


@dataclass(slots=True)
class Session:
    """Turns entries into answers and commands into deeds."""

    llm: "LLM"
    talk: Talk
    params: "SamplingParams"
    limit: "Limit" = field(init=False)

    def __post_init__(self):
        from slipstream.engine.limit import Limit

        config = self.llm.engine.config
        context = min(self.params.max_tokens, config.max_len)
        sizes, device = (config.spec, config.weight_format, config.kv, config.threads, context), self.llm.engine.kernels.device
        self.limit = Limit(*sizes, device, config.activations)
        self.limit.probe()

    def run(self, lines: Lines) -> None:
        """Until /exit or the end of the input. A mistake ends the turn, not the conversation."""
        while True:
            try:
                entry = lines.entry()
                if entry is None or entry.strip() == "/exit":
                    break
                if entry.strip():
                    self.take(entry)
            except SlipstreamError as error:
                typer.secho(f"error: {error}", fg="red", err=True)
            except KeyboardInterrupt:
                if not lines.typed:
                    raise
                typer.echo("\n(Ctrl-D or /exit leaves)", err=True)
        if lines.typed:
            typer.echo(err=True)

    def take(self, entry: str) -> None:
        """One entry: a command, or text for the model."""
        if not entry.startswith("/"):
            return self.answer(entry)
        name, _, rest = entry[1:].partition(" ")
        deeds: dict[str, Callable[[str], None]] = {
            "help": lambda _: tell(HELP),
            "reset": lambda _: self.talk.reset(),
            "system": self.talk.instruct,
            "set": self.set,
            "save": self.save,
        }
        if name not in deeds:
            raise unknown("command", f"/{name}", [f"/{known}" for known in (*deeds, "exit")])
        deeds[name](rest.strip())

    def set(self, text: str) -> None:
        """/set NAME VALUE; SamplingParams says what is allowed."""
        name, _, value = text.replace("=", " ").partition(" ")
        if name:
            if name not in SETTABLE:
                raise unknown("setting", name, SETTABLE)
            self.params = replace(self.params, **{name: number(name, value.strip())})
        shown = {part.name: getattr(self.params, part.name) for part in fields(self.params) if part.name in SETTABLE}
        tell(", ".join(f"{key} {own}" for key, own in shown.items()))

    def save(self, name: str) -> None:
        """/save FILE; never over another file."""
        if not name:
            raise InputError("/save: name a file, for instance /save talk.json")
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                json.dump(self.talk.messages(), file, ensure_ascii=False, indent=2)
                file.write("\n")
        except OSError as error:
            raise InputError(f"/save {name}: {error.strerror}; name another file") from error
        tell(f"saved {len(self.talk.messages())} messages in {name}")

    def answer(self, text: str) -> None:
        """Streams the model's answer. Ctrl-C ends it between two steps, so that engine and cache stay whole."""
        intake, core = self.llm.engine.intake, self.llm.engine.core
        clock, as_ids = Clock(self.llm), intake.tokenizer is None
        prompt = self.talk.prompt(text)
        if len(prompt) >= intake.max_len:
            raise InputError(f"the conversation has {len(prompt)} tokens, max_len={intake.max_len}: type /reset, or say less at a time")
        output, tickets = intake.request(prompt, self.params, lambda delta: show(output, delta, clock, as_ids))
        hits = core.scheduler.stats.hits
        with first_interrupt(lambda: core.abort([ticket.request.number for ticket in tickets])):
            core.submit(tickets)
            while not output.finished:
                core.step()
        clock.stop()
        core.step()  # what an ended request leaves behind
        typer.echo()
        if output.outputs[0].token_ids:
            self.talk.keep(text, output)
        self.limit.probe()
        stopped = "stopped; " if "abort" in clock.reasons else ""
        reused = core.scheduler.stats.hits - hits
        tell(f"[{stopped}{clock.line(self.limit)}; {reused} of {len(output.prompt_token_ids)} prompt tokens from the cache]")


def show(output: "RequestOutput", delta: "Delta", clock: Clock, as_ids: bool) -> None:
    """Takes in a delta and puts it on the terminal."""
    clock.note(delta)
    output.add(delta)
    sys.stdout.write("".join(f"{token} " for token in delta.token_ids) if as_ids else delta.text)
    sys.stdout.flush()


def number(name: str, text: str) -> int | float | None:
    """The value of a setting; "none" for a seed that is drawn each time."""
    if name == "seed" and text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"{name}={text!r}: must be a number, for instance /set temperature 0.7")


@contextmanager
def first_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C inside calls `act`; a second one interrupts as usual."""

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        act()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
