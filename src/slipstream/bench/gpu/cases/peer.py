"""A peer in the same run: transformers' generate on the shapes of `end_to_end`, random bf16 weights, torch's attention, not compiled."""

import random
import time
from statistics import median

import torch

from slipstream.arch.shapes import SHAPES
from slipstream.bench.gpu.bench import Bench, Unavailable

QUESTION = "How fast is transformers on the same shapes?"
ORDER, SECONDS = 91, 35
MODELS, DRY_MODELS = ("llama-3.2-1b", "llama-3.1-8b"), ("tiny",)
BATCHES, DRY_BATCHES = (1, 8, 64), (1, 2)
PROMPT, NEW, DRY_NEW = 128, 48, 3  # as in end_to_end


def measure(bench: Bench) -> None:
    for model in bench.pick(MODELS, DRY_MODELS):
        made: list = []

        def one(batch: int, model: str = model, made: list = made) -> None:
            if not made:
                made.append(load(bench, model))
            generate(bench, made[0], batch, 2)  # compiles and loads what torch needs
            new = bench.pick(NEW, DRY_NEW)
            first, whole = (median(generate(bench, made[0], batch, count) for _ in range(bench.pick(3, 1))) for count in (1, new))
            step = (whole - first) / (new - 1)
            bench.row(model=model, batch=batch, tokens_s=batch * new / whole, step_ms=step * 1e3, prefill_ms=first * 1e3)

        bench.each(bench.pick(BATCHES, DRY_BATCHES), lambda batch, model=model: f"{model} batch {batch}", one)
        made.clear()


def load(bench: Bench, model: str):
    """A causal language model with random weights, made on the device."""
    try:
        from transformers import AutoModelForCausalLM, LlamaConfig
    except ImportError as error:
        raise Unavailable(f"transformers is not installed ({error})") from None
    with torch.device(bench.device):
        made = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[model]), dtype=torch.bfloat16, attn_implementation="sdpa")
    return made.eval()


def generate(bench: Bench, made, batch: int, new: int) -> float:
    """Seconds in which `batch` prompts get `new` tokens each, greedily."""
    noise = random.Random(new)
    ids = [[noise.randrange(made.config.vocab_size) for _ in range(bench.pick(PROMPT, 5))] for _ in range(batch)]
    prompts = torch.tensor(ids, device=bench.device)
    bench.clock.synchronize()
    began = time.perf_counter()
    with torch.inference_mode():
        made.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
    bench.clock.synchronize()
    return time.perf_counter() - began


def answer(rows: list[dict]) -> list[str]:
    return [f"{row['model']} batch {row['batch']}: {row['tokens_s']:,.0f} tokens/s, step {row['step_ms']:.2f} ms" for row in rows]
