"""Prometheus metrics of the server. One registry, in the front; the engine's counters come to it with its beats.

Owns names and buckets. TTFT is measured from the request's arrival to its first token in the front, for every text; ITL is the
time between two deliveries divided by the tokens of the second; E2E ends with a text's last token.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from slipstream.server.messages import Beat

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5, 10)
TOKENS = tuple(2**power for power in range(18))
GAUGES = {
    "num_requests_running": "Texts that have a seat.",
    "num_requests_waiting": "Texts that wait for one.",
    "kv_cache_usage_perc": "Share of KV pages held by running texts, 0 to 1.",
    "kv_cache_cached_perc": "Share of KV pages that only the prefix cache holds, 0 to 1.",
    "generation_tokens_per_second": "Speed of the last two seconds, while steps ran.",
    "limit_tokens_per_second": "What the same steps would bring at this machine's limit.",
    "share_of_limit": "The one divided by the other.",
    "engine_ready": "1 while the engine makes progress or has nothing to do.",
    "engine_last_progress_seconds": "Seconds since the engine was last seen to be well.",
}
ENGINE_COUNTERS = {
    "engine_steps": ("steps", "Steps done."),
    "engine_step_busy_seconds": ("busy", "Seconds spent in steps."),
    "engine_step_ideal_seconds": ("ideal", "Least seconds in which this machine could have done them."),
    "engine_step_failures": ("failures", "Steps that failed."),
    "num_preemptions": ("preemptions", "Texts that lost their seat for want of pages."),
    "prefix_cache_hits": ("hits", "Prompt tokens that needed no computing."),
    "spec_decode_num_steps": ("chances", "Steps of texts that said something, with guesses or without."),
    "spec_decode_num_drafts": ("drafts", "Those of them in which guesses were checked."),
    "spec_decode_num_draft_tokens": ("drafted", "Guesses that were checked."),
    "spec_decode_num_accepted_tokens": ("accepted", "Guesses that were right."),
    "spec_decode_draft_seconds": ("drafting", "Seconds spent on making guesses."),
}


class Metrics:
    """All of them, under the prefix `slipstream_`.

    Args:
        model: label of every sample.
    """

    def __init__(self, model: str):
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model}
        self.first = self._histogram("time_to_first_token_seconds", "From arrival to the first token.", SECONDS)
        self.gap = self._histogram("inter_token_latency_seconds", "Between two tokens of a text.", SHORT)
        self.whole = self._histogram("e2e_request_latency_seconds", "From arrival to the last token.", SECONDS)
        self.queue = self._histogram("request_queue_time_seconds", "From arrival in the engine to a seat.", SECONDS)
        self.step = self._histogram("engine_step_seconds", "Time of a step.", SHORT)
        self.prompt_length = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self.length = self._histogram("request_generation_tokens", "Tokens made for a text.", TOKENS)
        self.made = self._counter("generation_tokens", "Tokens delivered.")
        self.read = self._counter("prompt_tokens", "Tokens of prompts that were accepted; queries of the prefix cache.")
        self._gauges = {name: self._plain(Gauge, name, text) for name, text in GAUGES.items()}
        self._totals = {field: self._counter(name, text) for name, (field, text) in ENGINE_COUNTERS.items()}
        self._ended = self._family("request_success", "Texts that ended, by reason.", "finished_reason")
        self._refused = self._family("admission_rejections", "Requests refused before they were accepted.", "reason")
        self._left = self._family("requests_aborted", "Requests ended before their time.", "reason")
        self._right = self._family("spec_decode_num_accepted_tokens_per_pos", "Guesses that were right, by depth, 0 first.", "position")
        self._rule = Gauge(
            "slipstream_spec_decode_verification",
            "1 for the rule by which guesses are checked; exact=false: it changes what texts are likely.",
            [*self._labels, "rule", "exact"],
            registry=self.registry,
        )
        self._last: Beat | None = None

    def verified_by(self, rule: str, exact: bool) -> None:
        self._rule.labels(**self._labels, rule=rule, exact=str(exact).lower()).set(1)

    def ended(self, reason: str) -> None:
        self._ended.labels(**self._labels, finished_reason=reason).inc()

    def refused(self, code: str) -> None:
        self._refused.labels(**self._labels, reason=code).inc()

    def aborted(self, reason: str) -> None:
        self._left.labels(**self._labels, reason=reason).inc()

    def beat(self, beat: Beat) -> None:
        """Takes the engine's pulse in."""
        before = self._last
        for field, counter in self._totals.items():
            counter.inc(max(getattr(beat, field) - (getattr(before, field) if before is not None else 0), 0))
        earlier = before.accepted_at if before is not None else []
        for position, count in enumerate(beat.accepted_at):
            right = self._right.labels(**self._labels, position=str(position))
            right.inc(max(count - (earlier[position] if position < len(earlier) else 0), 0))
        for seconds in beat.recent:
            self.step.observe(seconds)
        gauges = {
            "num_requests_running": beat.running,
            "num_requests_waiting": beat.waiting,
            "kv_cache_usage_perc": beat.used,
            "kv_cache_cached_perc": beat.cached_share,
            "generation_tokens_per_second": beat.speed,
            "limit_tokens_per_second": beat.roof,
            "share_of_limit": beat.speed / beat.roof if beat.roof else 0.0,
        }
        for name, value in gauges.items():
            self._gauges[name].set(value)
        self._last = beat

    def restarted(self) -> None:
        """The engine's counters begin at zero again; ours go on."""
        self._last = None

    def text(self, ready: bool, silence: float) -> bytes:
        """The exposition format.

        Args:
            ready: whether requests are served.
            silence: seconds since the engine was last seen to be well.
        """
        self._gauges["engine_ready"].set(ready)
        self._gauges["engine_last_progress_seconds"].set(silence)
        return generate_latest(self.registry)

    def _plain(self, kind, name: str, text: str, **more):
        return kind(f"slipstream_{name}", text, list(self._labels), registry=self.registry, **more).labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return self._plain(Histogram, name, text, buckets=buckets)

    def _counter(self, name: str, text: str) -> Counter:
        return self._plain(Counter, name, text)

    def _family(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"slipstream_{name}", text, [*self._labels, label], registry=self.registry)
