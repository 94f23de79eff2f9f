"""The purse: whatever a model costs, it costs a small share of the time in the end."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.scheduler.purse import ALLOWED, CREDIT, MOST, START, Purse


def live(steps, step_of):
    """(steps' worth lost, steps awake) of a purse whose owner does whatever it may."""
    purse, lost, awake = Purse(), 0.0, 0
    for step in range(steps):
        if step < purse.wakes:
            continue
        saved, spent, usual = step_of(awake)
        purse.settle(step, saved, spent, usual)
        lost, awake = lost + spent - saved, awake + 1
    return lost, awake


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.5), st.floats(0.01, 1), st.floats(0, 30), st.integers(0, 2**32))
def test_what_is_lost_stays_a_small_share(saved, spent, reading, seed):
    rng, steps = random.Random(seed), 6000

    def step(awake):
        cost = spent * rng.uniform(0.5, 1.5)
        return saved * rng.uniform(0, 2), cost + (reading if awake % 50 == 0 else 0), cost

    lost, _ = live(steps, step)
    once = START + MOST + CREDIT + spent * 1.5 + reading * 1.1  # what was there to spend, and the step that empties the purse
    assert lost <= 1.5 * ALLOWED * steps + once + reading


def test_who_earns_is_never_put_to_sleep_not_even_by_a_long_text():
    lost, awake = live(500, lambda awake: (0.5, 0.3 + (8.0 if awake == 0 else 0.0), 0.3))
    assert awake == 500 and lost < 0


def test_who_loses_sleeps_most_of_the_time_and_tries_again():
    lost, awake = live(5000, lambda awake: (0.1, 0.4, 0.4))
    assert 0 < awake < 0.05 * 5000 and lost < 0.02 * 5000
