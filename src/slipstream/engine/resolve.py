"""From options, model and machine to a frozen Config. Pure: reads nothing, changes nothing, decides everything."""

from dataclasses import dataclass

from slipstream.arch.spec import ModelSpec
from slipstream.base.config import Options
from slipstream.base.errors import InputError
from slipstream.cost import Mix, WeightFormat
from slipstream.cost.memory import MemoryPlan, plan
from slipstream.hardware.machine import Machine
from slipstream.ops.types import AT_ONCE, CODED, FLOATS, check_activations
from slipstream.scheduler import SchedulerOptions

DEFAULT_MAX_LEN = 8192
FINE = Options.activations  # what is not named in a profile
TARGET_ITL = 100  # milliseconds, on a CPU: about as fast as people read
LOGIT_ROWS, GPU_LOGIT_ROWS = 64, 256  # rows of logits made at a time; bounds the scratch of large vocabularies


@dataclass(frozen=True)
class Config:
    """What was decided, all of it. See Options for the fields of the same name.

    Attributes:
        model_name: folder or shape, for messages.
        demo: no model was named, so the built-in one runs.
        weight_format: of the linear layers as they are computed.
        activations: how those round what they read, as the option says it.
        max_logit_rows: rows of logits made at a time.
        memory: where the bytes go, pages included.
        verify, exact: rule by which drafts are checked; whether it keeps the distribution of the text.
        profile: id of the numerics profile: kernels, weight format, scales of activations where they are not per 32, KV type; the rule,
            if the text depends on drafts.
    """

    spec: ModelSpec
    model_name: str
    demo: bool
    threads: int
    weight_format: WeightFormat
    activations: str
    kv: str
    max_len: int
    max_batch: int
    max_logit_rows: int
    memory: MemoryPlan
    verify: str
    exact: bool
    profile: str
    scheduler: SchedulerOptions


def resolve(
    options: Options,
    spec: ModelSpec,
    stored: str,
    machine: Machine,
    kernels: str,
    max_draft: int,
    as_stored: WeightFormat | None = None,
    drafter: tuple[int, int] = (0, 0),
    rule: tuple[str, bool] = ("match", True),
) -> Config:
    """Decides.

    Args:
        spec: the model.
        stored: type of its weights where they are plain numbers, "bf16" or "fp32"; the embedding table's in any case.
        as_stored: `Weights.as_stored`, if that is another format.
        machine, kernels: cores and memory; id of the kernel set.
        max_draft, drafter: nodes a draft may have, 0 without speculation; bytes of a model that drafts, and what it has beside each page.
        rule: by which drafts are checked; whether it keeps the distribution of the text.

    Raises:
        InputError: an option does not fit the model.
        CapacityError: it does not fit into memory; names the sum and the way out.
    """
    max_len = longest(options, spec)
    weight_format = _weight_format(options, as_stored or stored)
    kv = options.kv or ("bf16" if stored == "bf16" or isinstance(weight_format, Mix) else "fp32")
    logit_rows = LOGIT_ROWS if options.device == "cpu" else GPU_LOGIT_ROWS
    memory = plan(
        spec,
        weight_format=weight_format,
        kv_type=kv,
        page_size=options.page_size,
        max_len=max_len,
        max_batch=options.max_batch,
        max_rows=options.max_step_tokens, max_logit_rows=logit_rows,
        available=machine.memory_available,
        memory=options.memory,
        pages=options.kv_tokens and -(-options.kv_tokens // options.page_size),
        stored=stored,
        drafter=drafter,
        inner=_inner(options, weight_format),
    )
    return Config(
        spec=spec,
        model_name=spec.name,
        demo=options.model is None,
        threads=options.threads or machine.threads,
        weight_format=weight_format,
        activations=options.activations,
        kv=kv,
        max_len=max_len,
        max_batch=options.max_batch,
        max_logit_rows=logit_rows,
        memory=memory,
        **dict(zip(("verify", "exact"), rule, strict=True)),
        profile=_profile(options, kernels, weight_format, kv, rule[0]),
        scheduler=_shared_out(options, spec, memory.pages, max_len, max_draft, logit_rows),
    )


def _profile(options: Options, kernels: str, weight_format: WeightFormat, kv: str, rule: str) -> str:
    """What a text depends on beside the model and the request, as one word."""
    scales = "" if options.activations == FINE else f"/a-{options.activations}"
    return f"{kernels}/w-{weight_format}{scales}/kv-{kv}" + ("" if rule == "match" else f"/verify-{rule}")


def _inner(options: Options, weight_format: WeightFormat) -> int:
    """Bytes of a number between the products of experts that run all at once; 0 where they do not."""
    formats = {format for _, format in weight_format.named} if isinstance(weight_format, Mix) else {weight_format}
    return 0 if options.device == "cpu" else max((AT_ONCE.get(format, 0) for format in formats), default=0)


def _weight_format(options: Options, stored: WeightFormat) -> WeightFormat:
    """Of the linear layers. InputError: coarser scales of activations would change nothing there, or have no kernel."""
    weight_format = options.quant or stored
    if options.activations == FINE:
        return weight_format
    if options.device != "cpu" and options.activations != CODED:
        raise InputError(f"activations={options.activations!r}: only CPUs round activations to int8, not {options.device}; leave it out")
    formats = {format for _, format in weight_format.named} if isinstance(weight_format, Mix) else {weight_format}
    if formats <= set(FLOATS):
        other = "int4" if options.activations == CODED else "int8"
        raise InputError(
            f"activations={options.activations!r}: {weight_format} weights leave activations as they are; leave it out, or "
            f"take quant={other}"
        )
    for format in sorted(formats):
        check_activations(format, options.activations)
    return weight_format


def _shared_out(options: Options, spec: ModelSpec, pages: int, max_len: int, max_draft: int, logit_rows: int) -> SchedulerOptions:
    return SchedulerOptions(
        page_size=options.page_size,
        pages=pages,
        max_batch=options.max_batch,
        max_step_tokens=options.max_step_tokens,
        max_len=max_len,
        max_chunk=options.max_chunk or options.max_step_tokens,
        prefix_cache=options.prefix_cache,
        policy=options.policy,
        vocab=spec.vocab,
        max_draft=max_draft,
        target_itl=target_itl(options) / 1000,
        ahead=int(options.device != "cpu" if options.overlap is None else options.overlap),
        max_drawn=logit_rows,
    )


def target_itl(options: Options) -> float:
    """Milliseconds; 0 for no target, as on a GPU, where a whole step takes less."""
    if options.target_itl is None:
        return TARGET_ITL if options.device == "cpu" else 0
    return options.target_itl


def longest(options: Options, spec: ModelSpec) -> int:
    """Tokens of the longest request. Raises InputError where the model was not made for it."""
    if options.max_len is not None and options.max_len > spec.max_len:
        raise InputError(f"max_len={options.max_len}: {spec.name} was made for up to {spec.max_len} positions; lower it")
    return options.max_len or min(spec.max_len, DEFAULT_MAX_LEN)
