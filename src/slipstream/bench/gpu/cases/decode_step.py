"""One decode step of the Decoder, launched from the host and replayed as a CUDA graph: what "graphs on" will be worth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from slipstream.arch.spec import ModelSpec
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.scenes import sample as sample_scene
from slipstream.cost import Work, step_cost
from slipstream.model.batch import Batch
from slipstream.model.build import load_model
from slipstream.model.decoder import Decoder
from slipstream.ops import AttentionRows, Kernels, SampleRows

QUESTION = "What does a decode step cost on the device alone, as a CUDA graph, against launching it?"
ORDER, SECONDS = 95, 50
MODELS, DRY_MODELS = ("dummy:llama-3.2-1b", "dummy:llama-3.1-8b"), ("dummy:tiny",)
BATCHES, DRY_BATCHES = (1, 8, 64), (1, 2)
CONTEXT, DRY_CONTEXT = 512, 8
PAGE = 16


@dataclass
class Step:
    """A decode step on static tensors: `batch` requests, each with `context` keys, its own included."""

    decoder: Decoder
    kernels: Kernels | None
    pool: Tensor
    batch: Batch
    rows: Tensor
    sampling: SampleRows
    out: Tensor

    def forward(self) -> Tensor:
        return self.decoder.forward(self.batch, self.pool)

    def logits(self) -> Tensor:
        return self.decoder.logits(self.forward(), self.rows)

    def whole(self) -> None:
        self.kernels.sample(self.logits(), self.sampling, self.out)


def measure(bench: Bench) -> None:
    limits = bench.limits()
    most, context = max(bench.pick(BATCHES, DRY_BATCHES)), bench.pick(CONTEXT, DRY_CONTEXT)
    for model, fixed in ((model, fixed) for fixed in (False, True) for model in bench.pick(MODELS, DRY_MODELS)):
        kernels = Kernels(bench.device, deterministic=fixed)
        name = f"{model}{' deterministic' if fixed else ''}"
        made: list[Decoder] = []

        def one(batch: int, model: str = model, made: list = made, kernels: Kernels = kernels, name: str = name) -> None:
            if not made:
                made.append(load_model(model, kernels, max_rows=most, max_logit_rows=most, max_len=context + PAGE))
            compare(bench, limits, name, build(bench, made[0], kernels, batch, context), context)

        bench.each(bench.pick(BATCHES, DRY_BATCHES), lambda batch, name=name: f"{name} batch {batch}", one)
        made.clear()
        if not bench.dry:
            torch.cuda.empty_cache()


def build(bench: Bench, decoder: Decoder, kernels: Kernels, batch: int, context: int) -> Step:
    device, pages = bench.device, -(-context // PAGE)
    pool = torch.randn(decoder.pool_shape(batch * pages, PAGE), device=device, dtype=torch.bfloat16)
    table = torch.arange(batch * pages, device=device, dtype=torch.int32).view(batch, pages)
    positions = torch.full((batch,), context - 1, device=device, dtype=torch.int32)
    slots = table[:, (context - 1) // PAGE] * PAGE + (context - 1) % PAGE
    rows = torch.arange(batch, device=device, dtype=torch.int32)
    none = torch.zeros(0, device=device, dtype=torch.int32)
    facts = AttentionRows(rows, positions, positions + 1, torch.zeros(batch + 1, device=device, dtype=torch.int32), none, table)
    ids = torch.randint(decoder.spec.vocab, (batch,), device=device).int()
    settings = sample_scene(batch, 8).on(device).tensors
    greedy = settings | {"temperature": torch.zeros_like(settings["temperature"])}
    sampling = SampleRows(*(greedy[name] for name in SampleRows.__slots__))
    out = torch.zeros(batch, device=device, dtype=torch.int32)
    return Step(decoder, kernels, pool, Batch(ids, positions, slots.contiguous(), facts), rows, sampling, out)


def compare(bench: Bench, limits: Limits, model: str, step: Step, context: int) -> None:
    """Forward; with logits; with greedy sampling. Each launched and as a graph, taking turns."""
    parts = {"forward": step.forward, "with logits": step.logits, "with sampling": step.whole}
    least = streaming(step.decoder.spec, limits, len(step.rows), context, step.decoder.format)
    for graph in (False, True):
        found = bench.clock.compare({name: [call] for name, call in parts.items()}, graph=graph, seconds=0.15)
        for name, timing in found.items():
            if isinstance(timing, Exception):
                bench.failure(f"{model} batch {len(step.rows)} {name} {'graph' if graph else 'launched'}", timing)
                continue
            bench.row(
                model=model, batch=len(step.rows), part=name, way="graph" if graph else "launched", timed=timing.way,
                ms=timing.median * 1e3, spread=timing.spread, streaming_ms=least * 1e3, share=least / timing.median,
                tokens_s=len(step.rows) / timing.median,
                raw=timing.samples,
            )  # fmt: skip


def streaming(spec: ModelSpec, limits: Limits, batch: int, context: int, format: str) -> float:
    """Least time of the step: its bytes over the bandwidth probed here."""
    work = Work.of([(context - 1, 1, ())] * batch, sampled=batch)
    return step_cost(spec, format, "bf16", work).bytes / limits.bandwidth


def answer(rows: list[dict]) -> list[str]:
    out = []
    for model, batch in dict.fromkeys((row["model"], row["batch"]) for row in rows):
        whole = {row["way"]: row for row in rows if (row["model"], row["batch"], row["part"]) == (model, batch, "with sampling")}
        if len(whole) == 2:
            launched, graph = whole["launched"]["ms"], whole["graph"]["ms"]
            share = whole["graph"]["share"]
            out.append(f"{model} batch {batch}: {launched:.2f} ms launched, {graph:.2f} ms as a graph ({share:.0%} of streaming)")
    return out
