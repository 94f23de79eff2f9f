"""Puts an engine together: the only place that knows all parts."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slipstream.base import log, native
from slipstream.base.config import Options
from slipstream.base.errors import BackendError
from slipstream.cost import Pace, assumed
from slipstream.engine.core import Core
from slipstream.engine.drafting import Drafting
from slipstream.engine.intake import Intake
from slipstream.engine.meter import Meter
from slipstream.engine.resolve import Config, longest, resolve
from slipstream.hardware.machine import Machine
from slipstream.hardware.machine import read as read_machine
from slipstream.model.build import DUMMY, open_weights
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.sampling.sampler import Sampler
from slipstream.scheduler import Controller, Scheduler
from slipstream.scheduler.request import PREDICTED
from slipstream.speculate.choose import choose_rule
from slipstream.speculate.predicted import Predicted
from slipstream.step import Executor
from slipstream.text.tokenizer import FILE, Tokenizer
from slipstream.weights.hub import locate
from slipstream.weights.shelf import Shelf
from slipstream.worker.batching import MAX_DRAFT
from slipstream.worker.executors.local import LocalExecutor
from slipstream.worker.pool import KVPool
from slipstream.worker.runner import Runner, Sizes, slots_of

BUILTIN = Path(__file__).parents[1] / "builtin"
PLAIN = ("fp32", "bf16")  # packed as fast as they are read


@dataclass(frozen=True)
class Engine:
    """The parts that faces (LLM, AsyncLLM, server) use."""

    config: Config
    core: Core
    intake: Intake
    kernels: Kernels
    executor: Executor


def build(options: Options) -> Engine:
    """Loads the model and allocates everything that a run will need."""
    with _uncollected():
        return _build(options)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage meanwhile: a vocabulary is half a million new objects that stay, and every search would walk them all."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _build(options: Options) -> Engine:
    source = BUILTIN / "demo" if options.model is None else options.model
    if not str(source).startswith(DUMMY):
        source = locate(source)
    rule = choose_rule(options.verify)
    kernels = Kernels(options.device, only=options.kernels, deterministic=options.deterministic, activations=options.activations)
    weights = open_weights(source, kernels.device)
    drafting = Drafting(options, source, weights.spec, kernels, longest(options, weights.spec), rule)
    config = resolve(
        *(options, weights.spec, weights.format, facts(options.device), kernels.profile),
        *(min(drafting.max_draft, MAX_DRAFT), weights.as_stored, drafting.memory, (rule.name, rule.exact)),
    )
    set_threads(config.threads)
    if weights.files and config.weight_format not in PLAIN:
        weights.shelf = Shelf(weights.files, f"{config.weight_format}/{kernels.profile}")
    rows = options.max_step_tokens
    decoder = Decoder(
        weights.spec, weights, kernels, rows, config.max_logit_rows, format=config.weight_format, max_len=config.max_len
    )
    if weights.shelf is not None:
        weights.shelf.close()
    shape = decoder.pool_shape(config.scheduler.pages, config.scheduler.page_size)
    pool = KVPool(shape, config.kv, kernels, drafting.slots)
    sizes = Sizes(rows=rows, batch=config.max_batch, tokens=config.max_len)
    slots = slots_of(sizes, pool, config.spec.vocab)
    drafter = Predicted(drafting.make(decoder, pool, slots))
    executor = LocalExecutor(Runner(decoder, pool, Sampler(kernels, config.max_logit_rows), drafter, sizes, rule, slots))
    guess = assumed(config.spec, config.weight_format, config.kv, config.threads, options.device.partition(":")[0])
    pace = Pace(guess)
    most, overlap = max(config.scheduler.max_draft, PREDICTED), config.scheduler.ahead > 0
    controller = Controller(pace, most, overlap) if options.control else None
    core = Core(
        lambda watch: Scheduler(config.scheduler, watch, pace=pace, controller=controller), executor, Meter(config.spec.windows)
    )
    tokenizer = tokenizer_of(source, weights.metadata)
    room = config.scheduler.pages * config.scheduler.page_size
    intake = Intake(tokenizer, config.spec.vocab, config.max_len, room, rule.name)
    return Engine(config, core, intake, kernels, executor)


def tokenizer_of(source: Path | str, metadata: Mapping[str, Any] | None = None) -> Tokenizer | None:
    """The model's tokenizer, read from the metadata of its GGUF file where these are at hand.

    None where prompts can only be token ids: random weights, and a folder without a tokenizer file of any kind.
    """
    if str(source).startswith(DUMMY):
        return None
    folder = Path(source)
    if not Tokenizer.present(folder):
        log.get(__name__).warning("%s: has no %s; prompts must be token ids, and texts do not end by themselves", folder, FILE)
        return None
    return Tokenizer.load(source, metadata)


def facts(device: str) -> Machine:
    """The machine as the memory plan sees it: what is available is the device's memory."""
    machine = read_machine(with_gpus=False)
    if device != "cpu" and not torch.cuda.is_available():
        raise BackendError(f"device={device!r}: torch {torch.__version__} sees no CUDA device; use device='cpu' or a CUDA build of torch")
    return machine if device == "cpu" else replace(machine, memory_available=torch.cuda.mem_get_info(device)[0])


def set_threads(count: int) -> None:
    """Threads of our kernels. Torch keeps to one: two pools would fight for cores, and its reference ops are row-invariant on
    one thread only."""
    if native.module is not None:
        native.module.set_threads(count)
    torch.set_num_threads(1)
