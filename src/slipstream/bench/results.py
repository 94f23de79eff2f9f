"""Result files: everything that is needed to judge a number, in one JSON per run.

Owns the layout (SCHEMA) and the place. Must not measure.
"""

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import slipstream
from slipstream.bench.attention import Ask as AttentionAsk
from slipstream.bench.attention import Place as AttentionPlace
from slipstream.bench.comparison import Comparison, Place
from slipstream.bench.driver import Ask, Run
from slipstream.bench.layers import Ask as LayersAsk
from slipstream.bench.layers import Layer
from slipstream.bench.quality import Quality
from slipstream.bench.replay import Ask as Replayed
from slipstream.bench.replay import Score as Setting
from slipstream.bench.serving import Serving, Turn
from slipstream.bench.speculation import Ask as Drafts
from slipstream.bench.speculation import Score
from slipstream.engine.limit import Limit
from slipstream.engine.llm import LLM
from slipstream.hardware import read
from slipstream.ops import probe

SCHEMA = 1
GIT_SECONDS = 5


def record(ask: Ask, llm: LLM, runs: Sequence[Run], command: str) -> dict[str, Any]:
    """The result file's content."""
    config = llm.engine.config
    return {
        **origin(ask.case, command),
        "model": {"name": config.model_name, "parameters": config.spec.parameters(), "demo": config.demo},
        "profile": config.profile,
        "threads": config.threads,
        "memory": config.memory.lines(),
        "points": [point_record(run) for run in runs],
    }


def comparison_record(found: Comparison, command: str) -> dict[str, Any]:
    """The result file's content for a comparison with peers; rates are tokens per second, ratios how many times as fast we are."""
    return {
        **origin("peers", command),
        "model": {"name": found.spec.name, "parameters": found.spec.parameters(), "demo": False},
        "weights": {"stored": found.ask.weights, "file": found.stored.name, "bytes_per_step": found.bytes},
        "threads": found.threads,
        "engines": {
            one.name: {
                "python": str(one.python),
                "weights": one.file.WEIGHTS,
                "note": one.file.NOTE,
                "facts": one.facts,
                "failure": one.failure,
            }
            for one in found.runners
        },
        "points": [place_record(place, [one.name for one in found.runners]) for place in found.places],
    }


def layers_record(ask: LayersAsk, found: Sequence[Layer], profile: str, command: str) -> dict[str, Any]:
    """The result file's content for linear layers by themselves; shares are medians over the repetitions."""
    points = [{**asdict(layer), "gop_s": layer.rate, "of_peak": layer.of_peak, "of_bandwidth": layer.of_bandwidth} for layer in found]
    model = {"name": f"{ask.n}x{ask.k}", "parameters": ask.n * ask.k, "demo": False}
    return {**origin("layers", command), "model": model, "profile": profile, "threads": ask.threads, "points": points}


def attention_record(ask: AttentionAsk, found: Sequence[AttentionPlace], profile: str, command: str) -> dict[str, Any]:
    """The result file's content for attention by itself; shares are medians over the repetitions."""
    name = f"{ask.heads}q{ask.kv_heads}kv{ask.head_dim}"
    points = [{**asdict(place), "gop_s": place.rate, "of_peak": place.of_peak, "of_bandwidth": place.of_bandwidth} for place in found]
    return {**origin("attention", command), "model": {"name": name}, "profile": profile, "threads": ask.threads, "points": points}


def quality_record(found: Quality, command: str) -> dict[str, Any]:
    """The result file's content for what rounding does to a model; `change` is of the perplexity, against the first point."""
    return {
        **origin("quality", command),
        "model": {"name": found.spec.name, "parameters": found.spec.parameters()},
        "kernels": found.kernels,
        "threads": found.threads,
        "texts": found.texts,
        "tokens": found.tokens,
        "text_bytes": found.text_bytes,
        "points": [
            {
                **asdict(score),
                "bits_per_byte": found.bits_per_byte(score),
                "perplexity": found.perplexity(score),
                "change": found.change(score),
            }
            for score in found.scores
        ],
    }


def speculation_record(ask: Drafts, llm: LLM, scores: Sequence[Score], limit: Limit, command: str) -> dict[str, Any]:
    """The result file's content for what drafters bring; `speedup` is the median of `ratios`, rates are tokens per second."""
    config = llm.engine.config
    return {
        **origin("speculation", command),
        "model": {"name": config.model_name, "parameters": config.spec.parameters(), "demo": config.demo},
        "profile": config.profile,
        "threads": config.threads,
        "texts": [title for title, _ in ask.texts],
        "new_tokens": ask.new_tokens,
        "limit": limit_record(limit),
        "points": [
            {
                **asdict(score),
                "speedup": score.speedup,
                "tokens_per_step": score.tally.per_step,
                "tokens_per_drafted_step": score.tally.per_draft,
                "accepted_by_depth": score.tally.by_depth(len(score.tally.accepted_at)),
            }
            for score in scores
        ],
    }


def replay_record(ask: Replayed, llm: LLM, scores: Sequence[Setting], limit: Limit, command: str) -> dict[str, Any]:
    """The result file's content for a replayed trace; as in `speculation_record`."""
    config = llm.engine.config
    return {
        **origin("replay", command),
        "model": {"name": config.model_name, "parameters": config.spec.parameters(), "demo": config.demo},
        "profile": config.profile,
        "threads": config.threads,
        "trace": {"drafter": ask.trace.drafter, "model": ask.trace.model, "temperature": ask.temperature},
        "cost": ask.drafter,
        "new_tokens": ask.new_tokens,
        "limit": limit_record(limit),
        "points": [
            {**asdict(score), "setting": score.name, "speedup": score.speedup, "tokens_per_step": score.per_step} for score in scores
        ],
    }


def serving_record(found: Serving, command: str) -> dict[str, Any]:
    """The result file's content for a load test; `ratio` is served over offline, rates are tokens per second, waits are seconds."""
    config = found.llm.engine.config if found.llm is not None else None
    name = config.model_name if config is not None else found.target.model
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(found.ask).items() if name != "api_key"}
    return {
        **origin("serve", command),
        "model": {"name": name} if config is None else {"name": name, "parameters": config.spec.parameters(), "demo": config.demo},
        "profile": None if config is None else config.profile,
        "threads": None if config is None else config.threads,
        "asked": asked,
        "limit": None if found.limit is None else limit_record(found.limit),
        "waits": {name: {f"p{part * 100:g}": value for part, value in parts.items()} for name, parts in found.quantiles().items()},
        "ratio": found.ratio,
        "offline": [{"tokens_per_s": one.rate, "possible": one.possible, "cpu_s_per_token": one.cpu} for one in found.offline],
        "turns": [turn_record(turn) for turn in found.turns],
        "arrivals": [{**turn_record(turn), "beside_s": turn.waits_beside()} for turn in found.arrivals],
    }


def turn_record(turn: Turn) -> dict[str, Any]:
    """One turn of a load test: every wait, and what it cost."""
    good = turn.good()
    return {
        "requests": len(turn.orders),
        "errors": turn.errors(),
        "prompt_tokens": sum(len(order.prompt) for order, _ in good),
        "new_tokens": sum(reply.tokens for _, reply in good),
        "seconds": turn.volley.seconds,
        "tokens_per_s": turn.rate,
        "generator_cpu_s": turn.volley.cpu,
        "server_cpu_s": turn.cpu,
        "late_s": turn.lateness(),
        "waits": {name: [round(wait, 6) for wait in waits] for name, waits in turn.waits().items()},
    }


def place_record(place: Place, names: Sequence[str]) -> dict[str, Any]:
    """One point of a comparison; an engine that was not measured there is None."""
    possible, rates = place.possible(), {name: place.rate(name) for name in names}
    return {
        "what": "prompt" if place.is_prompt else "decode",
        **asdict(place.point),
        "possible": possible,
        "median": rates,
        "share": {name: None if rate is None else rate / possible for name, rate in rates.items()},
        "ratio": {name: place.ratio(name) for name in names},
        "same_next_token": {name: place.agreeing(name) for name in names},
        "limit": limit_record(place.limit),
        "repetitions": place.turns,
        "busy_between_turns": place.busy,
    }


def origin(case: str, command: str) -> dict[str, Any]:
    """What every result file says first: when, where and by what it was made."""
    return {
        "schema": SCHEMA,
        "case": case,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "versions": {"slipstream": slipstream.__version__, "python": platform.python_version(), "torch": metadata.version("torch")},
        "machine": asdict(read()),
        "probe": probe.source,
    }


def limit_record(limit: Limit) -> dict[str, Any]:
    """What the machine could do, and every probe of it."""
    return {
        "working_set_bytes": limit.working_set,
        "bandwidth_gb_s": limit.bandwidth,
        "peaks_gop_s": limit.peaks,
        "probes": [asdict(reading) for reading in limit.readings],
    }


def point_record(run: Run) -> dict[str, Any]:
    """One point: medians, the limit they are to be held against, and every raw figure."""
    shares, limit = run.shares(), run.limit
    return {
        **asdict(run.point),
        "median": {name: run.figure(name) for name in run.repetitions[0].figures},
        "share": {name: median(values) for name, values in shares.items()},
        "binds": run.binds(),
        "limit": limit_record(limit),
        "repetitions": [
            {
                "figures": measured.figures,
                "share": {name: shares[name][number] for name in measured.spans},
                "least_s": {name: sum(map(limit.seconds, span.steps)) for name, span in measured.spans.items()},
                "wall_s": {name: span.seconds for name, span in measured.spans.items()},
                "raw": measured.raw,
            }
            for number, measured in enumerate(run.repetitions)
        ],
    }


def write(result: dict[str, Any], folder: Path) -> Path:
    """Writes a new file, named by date, case and model; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = result["date"].replace(":", "").partition("+")[0]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{stamp}-{result['case']}-{result['model']['name']}")
    path, number = folder / f"{name}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def commit() -> str | None:
    """The commit of the source that runs, with "+changes" where files differ from it; None outside a repository."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+changes" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    return done.stdout.strip()
