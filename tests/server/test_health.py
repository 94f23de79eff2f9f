"""What counts as progress: the rule alone, on a clock of the test's."""

from slipstream.server.health import GRACE, Health
from slipstream.server.messages import Beat


def beat(steps: int, working: bool, recent: tuple[float, ...] = ()) -> Beat:
    return Beat(steps, working, 0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, list(recent), 0.0, 0.0)


def run(health: Health, beats: list[Beat], now: float = 0.0) -> float:
    for one in beats:
        now += 0.25
        health.beat(one, now)
    return now


def test_idle_and_beating_is_well():
    health = Health(0.01, 0.0)
    now = run(health, [beat(5, False)] * 40)
    assert health.well(now)


def test_steps_that_go_on_are_well():
    health = Health(0.01, 0.0)
    assert health.well(run(health, [beat(number, True) for number in range(40)]))


def test_no_beat_is_not_well_within_the_grace():
    """A process that is gone or stopped."""
    health = Health(0.01, 0.0)
    now = run(health, [beat(1, False)] * 4)
    assert health.well(now + GRACE - 0.01) and not health.well(now + GRACE)
    assert GRACE < 2  # promised, with a look every 0.1 s


def test_beats_without_steps_are_not_well_while_there_is_work():
    """A loop that hangs, in a process whose other threads live."""
    health = Health(0.01, 0.0)
    now = run(health, [beat(7, True)] * 4)
    assert health.well(now)
    assert not health.well(run(health, [beat(7, True)] * 4, now))
    assert health.well(run(health, [beat(8, True)], now + 5))


def test_slow_machines_may_take_a_few_times_their_longest_step():
    health = Health(2.0, 0.0)
    now = run(health, [beat(7, True)] * 20)
    assert health.well(now) and not health.well(run(health, [beat(7, True)] * 8, now))
    learning = Health(0.01, 0.0)
    now = run(learning, [beat(1, True), beat(2, True, (3.0,))])
    assert learning.well(run(learning, [beat(2, True)] * 30, now))


def test_our_own_absence_is_excused():
    health = Health(0.01, 0.0)
    now = run(health, [beat(7, True)])
    health.excuse(60.0)
    assert health.well(now + 60.0)
