"""`slipstream verify`: does this model, on this machine, say what it should?

Owns two questions and their verdicts: is a request's text the same, bit by bit, whatever else happens (promise 1), and are the
model's log-probabilities those of `transformers`, where that is installed.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from slipstream.bench import arguments

if TYPE_CHECKING:
    from slipstream.engine.llm import LLM
    from slipstream.engine.outputs import RequestOutput
    from slipstream.step import SamplingParams

LENGTHS = (1, 5, 17, 33, 64, 16, 48, 3)  # of the prompts, in tokens
NEW, LONGEST, CHUNK, TOP = 24, 128, 5, 8
TOLERANCE = 2e-3  # of log-probabilities against transformers; both compute in fp32, in other orders
TEXT = (
    "The ferry left the harbour before the fog had gone, and nobody on the quay waved. Anna counted the crates again: eleven, where the "
    "list said twelve. She looked at the captain, who looked at the water. 'It will be on the other side,' he said, 'it always is.' "
)
Said = list[tuple[tuple[int, ...], tuple[Any, ...]]]  # per prompt: token ids and their log-probabilities


@dataclass(frozen=True, slots=True)
class Check:
    """A verdict; `passed` is None where the check could not be made."""

    name: str
    passed: bool | None
    detail: str

    def line(self) -> str:
        word = {True: "PASS", False: "FAIL", None: "skip"}[self.passed]
        return f"{self.name:<34}{word}  {self.detail}"


def verify(
    model: arguments.ModelArgument = None,
    device: arguments.Device = "cpu",
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    activations: arguments.Activations = None,
    kv: arguments.Kv = None,
    memory: arguments.Memory = None,
    kernels: arguments.KernelSet = None,
) -> None:
    """Checks MODEL here: same text in every batch, and the numbers of transformers. Exit code 1 if a check fails."""
    from slipstream.engine.build import BUILTIN
    from slipstream.model.build import DUMMY, open_weights
    from slipstream.weights.hub import locate

    source = str(BUILTIN / "demo" if model is None else model)
    source = source if source.startswith(DUMMY) else str(locate(source))
    options = arguments.given(
        threads=threads, quant=quant, activations=activations, kv=kv, memory=arguments.parse_size(memory), kernels=kernels
    )
    longest = min(LONGEST, open_weights(source).spec.max_len)
    options = {**options, "device": device, "deterministic": device != "cpu", "max_len": longest}
    checks = []
    for check in (*same_text(source, options), *same_numbers(source, options)):
        typer.echo(check.line())
        checks.append(check)
    failed = sum(check.passed is False for check in checks)
    skipped = sum(check.passed is None for check in checks)
    typer.echo(f"{len(checks) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    if failed:
        raise typer.Exit(1)


def same_text(source: str, options: Mapping[str, Any]) -> Iterator[Check]:
    """Promise 1: alone on an idle engine, against everything that may change without changing a text."""
    from slipstream.base import registry
    from slipstream.base.errors import InputError
    from slipstream.speculate.choose import DRAFTERS

    with opened(source, options, max_batch=1, prefix_cache=False, speculate="none") as llm:
        asked = prompts(llm)
        params = [each(number, llm) for number in range(len(asked))]
        expected = [answer for prompt, own in zip(asked, params, strict=True) for answer in said(llm, [prompt], [own])]
        profile, count = llm.engine.config.profile, sum(len(tokens) for tokens, _ in expected)
    typer.echo(f"{source}, {profile}: {len(asked)} prompts, {count} tokens, greedy and seeded")
    with opened(source, options, max_batch=len(asked)) as llm:
        yield compared(f"same text in a batch of {len(asked)}", expected, said(llm, asked, params))
        before = llm.engine.core.scheduler.stats.hits
        check = compared("same text from the prefix cache", expected, said(llm, asked, params))
        hits = llm.engine.core.scheduler.stats.hits - before
        yield check if hits else Check(check.name, False, "nothing was found in the cache, so nothing was checked")
    with opened(source, options, max_batch=len(asked), max_chunk=CHUNK, prefix_cache=False) as llm:
        yield compared(f"same text, prompts in chunks of {CHUNK}", expected, said(llm, asked, params))
    for drafter in registry.names(DRAFTERS):
        if drafter != "none":
            name = f"same text, drafts by {drafter}"
            try:
                with opened(source, options, max_batch=len(asked), speculate=drafter) as llm:
                    yield compared(name, expected, said(llm, asked, params))
            except InputError as error:  # it needs something that this model does not come with
                yield Check(name, None, str(error))


@contextmanager
def opened(source: str, options: Mapping[str, Any], **more: Any) -> Iterator["LLM"]:
    """An engine for the time of a `with` block."""
    from slipstream.engine.llm import LLM

    llm = LLM(source, **{**options, **more})
    try:
        yield llm
    finally:
        llm.close()


def prompts(llm: "LLM") -> list[list[int]]:
    """Prompts of several lengths; every other one begins like the others."""
    intake = llm.engine.intake
    if intake.tokenizer is None:
        noise = random.Random(1)
        ids = [noise.randrange(intake.vocab) for _ in range(2 * LONGEST)]
    else:
        ids = intake.tokenizer.encode(TEXT * 2)
    room = intake.max_len - new_tokens(llm)
    starts = (0 if number % 2 else 7 * number for number in range(len(LENGTHS)))
    return [ids[start : start + min(length, room)] for start, length in zip(starts, LENGTHS, strict=True)]


def new_tokens(llm: "LLM") -> int:
    return min(NEW, llm.engine.intake.max_len // 2)


def each(number: int, llm: "LLM") -> "SamplingParams":
    """Every other prompt greedy, the others drawn from a seed."""
    from slipstream.step import SamplingParams

    temperature = 0.0 if number % 2 else 0.8
    return SamplingParams(max_tokens=new_tokens(llm), temperature=temperature, seed=number, ignore_eos=True, logprobs=2)


def said(llm: "LLM", asked: Sequence[list[int]], params: Sequence["SamplingParams"]) -> Said:
    samples = [output.outputs[0] for output in llm.generate(list(asked), list(params))]
    return [(tuple(sample.token_ids), tuple(sample.logprobs or ())) for sample in samples]


def compared(name: str, expected: Said, found: Said) -> Check:
    """PASS only for the same bits."""
    for number, ((tokens, logprobs), (others, other_logprobs)) in enumerate(zip(expected, found, strict=True), 1):
        if tokens != others:
            pairs = zip(tokens, others, strict=False)
            at = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(tokens), len(others)))
            return Check(name, False, f"prompt {number}: other text from new token {at + 1} on")
        if logprobs != other_logprobs:
            return Check(name, False, f"prompt {number}: same text, other log-probabilities")
    return Check(name, True, f"{len(expected)} of {len(expected)}, tokens and log-probabilities bit by bit")


def same_numbers(source: str, options: Mapping[str, Any]) -> Iterator[Check]:
    """Log-probabilities and greedy tokens against transformers, with a KV cache in fp32, so that only the order of sums differs."""
    name = "log-probabilities of transformers"
    reason = why_not(source, options)
    if reason is not None:
        yield Check(name, None, reason)
        return
    from slipstream.step import SamplingParams

    with opened(source, {**options, "kv": "fp32"}, max_batch=len(LENGTHS)) as llm:
        params = SamplingParams(max_tokens=new_tokens(llm), temperature=0, ignore_eos=True, logprobs=TOP, prompt_logprobs=TOP)
        outputs = llm.generate(prompts(llm), params)
        threads = llm.engine.config.threads
    oracle = load_oracle(source, threads)
    if isinstance(oracle, str):
        yield Check(name, None, oracle)
        return
    pairs = [distance(oracle, output) for output in outputs]
    worst, wrong = max(error for error, _ in pairs), sum(count for _, count in pairs)
    yield Check(name, all(error <= TOLERANCE for error, _ in pairs), f"largest error {worst:.1e}, allowed {TOLERANCE:.0e}")
    total = sum(len(output.outputs[0].token_ids) for output in outputs)
    yield Check("greedy tokens of transformers", not wrong, f"{total - wrong} of {total}")


def why_not(source: str, options: Mapping[str, Any]) -> str | None:
    """Why there is nothing to compare with."""
    from importlib.util import find_spec

    from slipstream.hardware import read
    from slipstream.model.build import DUMMY, open_weights

    if source.startswith(DUMMY):
        return "random weights: there is no checkpoint to compare with"
    if not (Path(source) / "config.json").is_file():
        return "not a folder in the Hugging Face layout"
    if options.get("quant") is not None:
        return "weights converted by --quant are meant to differ; leave it out"
    if options["device"] != "cpu":
        return "matrix products of a GPU are not in fp32; compare with --device cpu"
    if find_spec("transformers") is None:
        return "transformers is not installed; pip install transformers"
    needed, free = 4 * open_weights(source).spec.parameters(), read(with_gpus=False).memory_available
    if free is not None and needed > 0.8 * free:
        return f"transformers needs {needed / 2**30:.1f} GiB for it in fp32, {free / 2**30:.1f} GiB are free"
    return None


def load_oracle(source: str, threads: int) -> Any:
    """The model of transformers in fp32, or why it cannot be had."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True).eval()
    except (ImportError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        return f"transformers cannot load it ({type(error).__name__}: {' '.join(str(error).split())[:160]})"


def distance(oracle: Any, output: "RequestOutput") -> tuple[float, int]:
    """(largest error of a log-probability, greedy tokens that are not the oracle's; a tie within the tolerance is no error)."""
    import torch

    sample = output.outputs[0]
    tokens = [*output.prompt_token_ids, *sample.token_ids]
    with torch.no_grad():
        rows = oracle(torch.tensor([tokens[:-1]]), use_cache=False).logits[0].double().log_softmax(-1)  # [tokens - 1, vocab]
    entries = [*(output.prompt_logprobs or ()), *(sample.logprobs or ())]
    ours = [(row, token, value) for row, one in enumerate(entries) for token, value in ((one.token, one.logprob), *one.top)]
    at, ids, values = (torch.tensor(column) for column in zip(*ours, strict=True))
    error = float((rows[at, ids] - values).abs().max())  # not a number stays one
    answered = rows[len(output.prompt_token_ids) - 1 :]
    chosen = answered.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
    return error, int((~(answered.max(-1).values - chosen <= TOLERANCE)).sum())
