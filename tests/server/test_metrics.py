"""Counters of guesses: from beats to the exposition format, over a restart of the engine."""

from prometheus_client.parser import text_string_to_metric_families

from slipstream.server.messages import Beat
from slipstream.server.metrics import Metrics
from slipstream.server.shapes import Usage

QUIET = (0, False, 0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, [], 0.0, 0.0)


def samples(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text(True, 0.0).decode())
    return {sample.name + sample.labels.get("position", ""): sample.value for family in families for sample in family.samples}


def test_guesses_are_counted_by_depth_and_go_on_after_a_restart():
    metrics = Metrics("m")
    metrics.beat(Beat(*QUIET, 10, 4, 9, 5, [3, 2], 0.5))
    metrics.beat(Beat(*QUIET, 20, 8, 19, 12, [7, 4, 1], 0.75))
    metrics.restarted()
    metrics.beat(Beat(*QUIET, 1, 1, 2, 1, [1], 0.25))
    found = samples(metrics)
    start = "slipstream_spec_decode_"
    assert (found[start + "num_steps_total"], found[start + "num_drafts_total"]) == (21, 9)
    assert (found[start + "num_draft_tokens_total"], found[start + "num_accepted_tokens_total"]) == (21, 13)
    per_depth = [found[f"{start}num_accepted_tokens_per_pos_total{depth}"] for depth in range(3)]
    assert per_depth == [8, 4, 1] and sum(per_depth) == 13
    assert found[start + "draft_seconds_total"] == 1.0


def test_the_rule_of_verification_is_named():
    metrics = Metrics("m")
    metrics.verified_by("typical", exact=False)
    assert 'slipstream_spec_decode_verification{exact="false",model_name="m",rule="typical"} 1.0' in metrics.text(True, 0.0).decode()
    assert Usage(3, lossy="typical").json()["lossy_verification"] == "typical"
    assert "lossy_verification" not in Usage(3).json()
