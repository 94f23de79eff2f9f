"""Same text on the device: the tokens of a request alone, in a batch and in chunks, in deterministic settings, which promise it, and
in the fast ones, whose cuBLAS layers do not."""

import random

from slipstream import LLM, SamplingParams
from slipstream.bench.gpu.bench import Bench

QUESTION = "Does a request say the same whatever else runs?"
ORDER, SECONDS = 92, 80
MODEL, DRY_MODEL = "dummy:llama-3.2-1b", "dummy:tiny"
REQUESTS, NEW = 12, 32
DRY_REQUESTS, DRY_NEW = 3, 4


SETTINGS = {  # name -> options of the engine
    "deterministic": {"deterministic": True},
    "fast": {},
    "deterministic fp8": {"deterministic": True, "quant": "fp8"},
    "deterministic kv fp8": {"deterministic": True, "kv": "fp8"},
}
WAYS = {  # name -> (options of the engine, one request at a time, order turned round)
    "again, alone": ({}, True, False),  # if this differs from itself, nothing else means anything
    "in one batch": ({}, False, False),
    "reversed": ({}, False, True),
    "in chunks of 5": ({"max_chunk": 5}, False, False),
    "in rounds": ({"speculate": "eagle:path=dummy,nodes=3,depth=3", "control": False}, False, False),
}


def measure(bench: Bench) -> None:
    count, new = bench.pick((REQUESTS, NEW), (DRY_REQUESTS, DRY_NEW))
    noise = random.Random(5)
    prompts = [[noise.randrange(500) for _ in range(3 + 7 * number % 60)] for number in range(count)]
    params = [
        SamplingParams(max_tokens=new, temperature=0.0 if number % 2 else 0.8, seed=number, ignore_eos=True) for number in range(count)
    ]
    alone: dict[str, list[list[int]]] = {}

    def one(point: tuple[str, str]) -> None:
        settings, way = point
        if settings not in alone:
            alone[settings], _ = tokens(bench, prompts, params, SETTINGS[settings], True, False)
        options, single, turned = WAYS[way]
        found, profile = tokens(bench, prompts, params, {**options, **SETTINGS[settings]}, single, turned)
        firsts = [
            next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b), None)
            for mine, theirs in zip(found, alone[settings], strict=True)
        ]
        differ = [first for first in firsts if first is not None]
        bench.row(
            settings=settings, way=way, requests=count, new_tokens=new, same=count - len(differ),
            earliest_difference=min(differ, default=None), profile=profile, raw=firsts,
        )  # fmt: skip

    wanted = [name for name, options in SETTINGS.items() if not (bench.dry and {"quant", "kv"} & set(options))]  # CPUs have no 8-bit floats
    bench.each([(settings, way) for settings in wanted for way in WAYS], lambda point: f"{point[0]}: {point[1]}", one)


def tokens(
    bench: Bench, prompts: list[list[int]], params: list[SamplingParams], options: dict, alone: bool, turned: bool
) -> tuple[list[list[int]], str]:
    """Tokens of every request, in the order of `prompts`, from an engine of its own; its profile."""
    sizes = {"max_batch": 16, "max_step_tokens": 256, "max_len": 128, "kv_tokens": 16 * 144, "prefix_cache": False, "speculate": "none"}
    llm = LLM(bench.pick(MODEL, DRY_MODEL), device=bench.device, **{**sizes, **options})
    pairs = list(zip(prompts, params, strict=True))[:: -1 if turned else 1]
    groups = [[pair] for pair in pairs] if alone else [pairs]
    out = []
    for group in groups:
        outputs = llm.generate([prompt for prompt, _ in group], [own for _, own in group])
        out += [list(output.outputs[0].token_ids) for output in outputs]
    profile = llm.engine.config.profile
    llm.close()
    return out[:: -1 if turned else 1], profile


def answer(rows: list[dict]) -> list[str]:
    return [f"{row['settings']}, {row['way']}: {row['same']} of {row['requests']} requests the same" for row in rows]
