"""What may change without changing a text, and a way to cover all pairs of such changes with few runs."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slipstream import SamplingParams

# Each axis lists everything that a user, a neighbour or the machine may do differently. The first value is the plain one.
AXES = {
    "batch": (1, 2, 8, 32),
    "chunk": (64, 7, 1),
    "page_size": (16, 1, 5, 64),
    "prefix": ("off", "miss", "hit"),
    "room": ("ample", "scarce"),  # scarce: the pool is so small that requests are preempted and recomputed
    "samples": (1, 3),
    "drafter": (
        *("none", "Perfect", "AlwaysWrong", "RandomTree", "DuplicateHeavy", "OutOfVocabulary", "TooMuch"),
        *("ngram:shortest=1", "suffix:others=true", "draft_model:path=dummy:tiny:bf16,nodes=4"),
        *("eagle:path=dummy,nodes=6,depth=3", "medusa:path=dummy", "mtp:path=dummy,nodes=12,depth=3,tree=true"),
    ),
    "control": (False, True),  # whether guesses are cut to those that pay
    "overlap": (False, True),  # whether a step is planned while one runs
    "threads": (2, 1),
    "weights": ("fp32", "bf16", "int8", "int4", "int8-row"),
}

# Drafters that share the code of those above; they stand in for them in fewer scenarios.
MORE = (
    *("staged:path=dummy:tiny:bf16", "early_exit:layers=1", "redrafter:path=dummy", "lookahead", "cascade:of=eagle(path=dummy)"),
    *("firp:path=dummy", "streaming:path=dummy,nodes=12"),
    "eagle:path=dummy,nodes=3,depth=3",  # a chain; in rounds, where nobody asks for log-probabilities: tests/worker/test_rounds.py
    *("eagle:path=dummy,nodes=12,tree=true", "draft_model:path=dummy:tiny:bf16,nodes=10,tree=true"),
)

SAMPLING = {
    "greedy": dict(temperature=0.0),
    "seeded": dict(temperature=0.8, seed=11),
    "top-p": dict(temperature=1.1, top_p=0.7, top_k=50, min_p=0.01, seed=12),
    "penalties": dict(
        temperature=0.7,
        seed=13,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.4,
        logit_bias={3: 2.0},
        min_tokens=4,
    ),
}


# How each weight format is had; each is a numerics profile of its own, with texts of its own. int8 weights have an int8 cache.
MODELS = {
    "fp32": dict(model="dummy:tiny:fp32"),
    "bf16": dict(model="dummy:tiny:bf16"),
    "int8": dict(model="dummy:tiny:bf16", quant="int8", kv="int8"),
    "int4": dict(model="dummy:tiny:bf16", quant="int4"),
    "mixture": dict(model="dummy:tiny-moe:bf16"),  # on no axis: in a few scenarios
    "int8-row": dict(model="dummy:tiny:bf16", quant="int8", activations="row"),
}


@dataclass(frozen=True)
class Scenario:
    batch: int
    chunk: int
    page_size: int
    prefix: str
    room: str
    samples: int
    drafter: str
    control: bool
    overlap: bool
    threads: int
    weights: str
    sampling: str

    def __str__(self) -> str:
        decided = "-control" * self.control + "-overlap" * self.overlap
        return (
            f"{self.sampling}-b{self.batch}-c{self.chunk}-p{self.page_size}-{self.prefix}-{self.room}-n{self.samples}-"
            f"{self.drafter.partition(':')[0]}{decided}-t{self.threads}-{self.weights}"
        )


def every(**fixed) -> Iterator[Scenario]:
    """All combinations of what is not fixed."""
    axes = {**AXES, "sampling": tuple(SAMPLING)} | {name: (value,) for name, value in fixed.items()}
    return (Scenario(*values) for values in itertools.product(*axes.values()))


def pairwise(seed: int = 0, **others: tuple) -> list[Scenario]:
    """A small set in which every pair of values of every two axes occurs (greedy cover over random candidates).

    Args:
        others: axes with other values than AXES has.
    """
    axes = [*(AXES | others).values(), tuple(SAMPLING)]
    rng = random.Random(seed)
    missing = {(i, a, j, b) for i, j in itertools.combinations(range(len(axes)), 2) for a in axes[i] for b in axes[j]}
    chosen = []
    while missing:
        i, a, j, b = min(missing, key=str)
        candidates = []
        for _ in range(40):
            values = [rng.choice(axis) for axis in axes]
            values[i], values[j] = a, b
            candidates.append(values)
        best = max(candidates, key=lambda values: len(_pairs(values) & missing))
        missing -= _pairs(best)
        chosen.append(Scenario(*best))
    return chosen


def _pairs(values: Sequence) -> set[tuple]:
    return {(i, values[i], j, values[j]) for i, j in itertools.combinations(range(len(values)), 2)}


def prompts(count: int, vocab: int, seed: int = 5) -> list[list[int]]:
    """Prompts of 1 to 90 tokens; every other one begins like its predecessor, some share more than a page."""
    rng = random.Random(seed)
    out: list[list[int]] = []
    for index in range(count):
        length = (1, 33, 17, 90, 16, 64, 3, 48)[index % 8]
        tokens = [rng.randrange(4, vocab) for _ in range(length)]
        if index % 2:
            shared = rng.randrange(1, 40)
            tokens = [*out[-1][:shared], *tokens][: max(length, 2)]
        out.append(tokens)
    return out


def params(sampling: str, tokens: int, samples: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, ignore_eos=True, n=samples, logprobs=2, **SAMPLING[sampling])
