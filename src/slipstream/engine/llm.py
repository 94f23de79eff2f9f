"""LLM: the engine in this process, driven by the caller's thread.

    llm = LLM()                                        # the built-in model; or a folder, or "dummy:llama-3.2-1b"
    for output in llm.generate(["Once upon a time"], SamplingParams(max_tokens=40)):
        print(output.outputs[0].text)
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slipstream.base.config import Options
from slipstream.base.errors import InputError
from slipstream.engine.build import Engine, build
from slipstream.engine.core import Ticket
from slipstream.engine.intake import Prompt
from slipstream.engine.outputs import Delta, RequestOutput
from slipstream.step import SamplingParams


class LLM:
    """Loads a model and generates.

    Args:
        model: a checkpoint folder, `dummy:SHAPE[:FORMAT]` for random weights, None for the built-in model.
        options: see `slipstream.base.config.Options`.

    Raises:
        InputError, CheckpointError: the model or an option cannot be used.
        CapacityError: it would not fit into memory; says what would.
    """

    def __init__(self, model: str | Path | None = None, **options: Any):
        self.engine: Engine = build(Options.of(model, options))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Completes all prompts as one batch; outputs are in the order of the prompts.

        Args:
            prompts: a text, a list of token ids, or a list of such prompts.
            params: for all prompts, or one for each.
            progress: show a progress bar.
        """
        several = as_prompts(prompts)
        each = as_params(params, len(several))
        outputs: list[RequestOutput] = []
        tickets: list[Ticket] = []
        for prompt, own in zip(several, each, strict=True):
            output, made = self.engine.intake.request(prompt, own)
            outputs.append(output)
            tickets.extend(made)
        with Progress(outputs, progress) as bar:
            self._run(tickets, bar.update)
        return outputs

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Yields news of one request as they come. Closing the iterator ends the request."""
        deltas: deque[Delta] = deque()
        output, tickets = self.engine.intake.request(prompt, params or SamplingParams(), deltas.append)
        core = self.engine.core
        core.submit(tickets)
        try:
            while not output.finished:
                core.step()
                while deltas:
                    output.add(deltas[0])
                    yield deltas.popleft()
        finally:
            core.abort([ticket.request.number for ticket in tickets])
            core.step()

    def close(self) -> None:
        """Gives the device's memory back."""
        self.engine.executor.close()

    def _run(self, tickets: list[Ticket], after_step) -> None:
        core = self.engine.core
        core.submit(tickets)
        try:
            while core.step():
                after_step()
        except BaseException:  # Ctrl-C included: nothing of this call may run on in the next one
            core.abort([ticket.request.number for ticket in tickets])
            raise


class Progress:
    """A progress bar over output tokens, or nothing."""

    def __init__(self, outputs: list[RequestOutput], shown: bool):
        self.outputs, self.shown = outputs, shown

    def __enter__(self) -> "Progress":
        if self.shown:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.fields[rate]}"))
            self.task = self.bar.add_task("requests", total=len(self.outputs), rate="")
            self.bar.start()
        return self

    def update(self) -> None:
        if self.shown:
            tokens = sum(len(sample.token_ids) for output in self.outputs for sample in output.outputs)
            elapsed = self.bar.tasks[self.task].elapsed or 1e-9
            done = sum(output.finished for output in self.outputs)
            self.bar.update(self.task, completed=done, rate=f"{tokens / elapsed:.0f} tokens/s")

    def __exit__(self, *error: object) -> None:
        if self.shown:
            self.bar.stop()


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list of prompts."""
    if isinstance(prompts, str):
        return [prompts]
    prompts = list(prompts)
    return [prompts] if prompts and isinstance(prompts[0], int) else prompts


def as_params(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    """Parameters for each of `count` prompts."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise InputError(f"params: {len(params)} given for {count} prompts; give one for all, or one for each")
    return list(params)
