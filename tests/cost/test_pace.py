"""The step-time model on machines whose true speed is known: stairs, hiccups, neighbours that come and go."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.cost import LINEAR_ARITHMETIC, WEIGHT_FORMATS, Pace, Work, assumed, step_cost
from slipstream.cost.pace import EDGES


def work(rows: int, context: int = 0) -> Work:
    """A chunk of `rows` after `context` cached positions."""
    return Work.of([(context, rows, ())], 1)


def linear(one: Work) -> float:
    return 0.01 + 0.001 * one.rows + 1e-7 * one.keys


def machine(one: Work) -> float:
    """Three times slower than guessed in small steps, twice in large ones, in tiles of 12 rows beyond 16; attention costs double."""
    rows = one.rows if one.rows <= 16 else -(-one.rows // 12) * 12
    return 0.03 + (0.002 if rows > 16 else 0.003) * rows + 2e-7 * one.keys


def taught(truth=machine, steps: int = 400, noise=lambda: 1.0, seed: int = 0) -> Pace:
    pace, draw = Pace(linear), random.Random(seed)
    for _ in range(steps):
        one = work(draw.choice([1, 2, 4, 8, 16, 24, 40, 64, 96, 128, 200, 256]), draw.choice([0, 100, 1000, 3000]))
        pace.observe(one, truth(one) * noise())
        pace.predict(one)
    return pace


def test_before_any_step_it_is_the_guess():
    assert Pace(linear).predict(work(20, 5)) == linear(work(20, 5))


@pytest.mark.parametrize("rows", [1, 4, 16, 40, 128, 256])
@pytest.mark.parametrize("context", [0, 1000, 3000])
def test_it_learns_the_machine(rows, context):
    assert taught().predict(work(rows, context)) == pytest.approx(machine(work(rows, context)), rel=0.15)


@pytest.mark.parametrize("rows", [3, 12, 32, 80, 160])
def test_shapes_never_seen_lie_between_their_neighbours(rows):
    assert taught().predict(work(rows)) == pytest.approx(machine(work(rows)), rel=0.25)


def test_odd_steps_change_little():
    """Every fifth step takes five times as long."""
    draw = random.Random(1)
    pace = taught(noise=lambda: 5.0 if draw.random() < 0.2 else draw.uniform(0.95, 1.05), seed=1)
    for rows in (1, 8, 64, 256):
        assert pace.predict(work(rows)) == pytest.approx(machine(work(rows)), rel=0.3)


def test_one_odd_step_changes_nothing_and_three_do():
    pace = Pace(linear)
    for _ in range(20):
        pace.observe(work(64), 0.1)
    pace.observe(work(64), 1.0)
    assert pace.predict(work(64)) == pytest.approx(0.1)
    pace.observe(work(64), 0.4)
    pace.observe(work(64), 0.4)
    assert pace.predict(work(64)) == pytest.approx(0.4)


def test_a_shape_once_seen_slow_gets_another_chance():
    """It was seen while a neighbour was busy; since then only smaller steps, which are fast, were planned."""
    pace = taught()
    for _ in range(7):
        pace.observe(work(128), 10 * machine(work(128)))
    slow = pace.predict(work(128))
    for _ in range(100):
        for rows in (96, 112):
            pace.observe(work(rows), machine(work(rows)))
            pace.predict(work(rows))
    assert slow > 5 * machine(work(128)) and pace.predict(work(128)) < 2 * machine(work(128))


def test_decoding_for_long_does_not_forget_prompts():
    pace = taught()
    for _ in range(1000):
        pace.observe(work(1, 100), machine(work(1, 100)))
        pace.predict(work(1, 100))
    assert pace.predict(work(256)) == pytest.approx(machine(work(256)), rel=0.2)


def test_steps_without_rows_or_time_teach_nothing():
    pace = Pace(linear)
    pace.observe(Work(), 1.0)
    pace.observe(work(1), 0.0)
    assert pace.predict(Work()) == 0
    assert pace.predict(work(1)) == linear(work(1))


@settings(max_examples=200, deadline=None)
@given(
    base=st.integers(0, 40),
    most=st.integers(-1, 600),
    seconds=st.floats(0, 3),
    seen=st.lists(st.tuples(st.integers(1, 300), st.floats(1e-3, 2)), max_size=12),
)
def test_rows_within(base, most, seconds, seen):
    """What is said to fit is predicted to fit; if it is not all, it ends with a stair."""
    pace = Pace(linear)
    for rows, taken in seen:
        pace.observe(work(rows), taken)

    def work_of(rows):
        return Work(base + rows, 0, base + rows, base + rows)

    rows = pace.rows_within(seconds, work_of, most)
    assert 0 <= rows <= max(most, 0)
    if rows:
        assert pace.predict(work_of(rows)) <= seconds
        assert rows == most or base + rows in EDGES
    if not seen and rows < most:  # the guess grows with the rows, so the next stair must be too long
        following = min(base + most, next(edge for edge in EDGES if edge > base + rows))
        assert pace.predict(work_of(following - base)) > seconds


def test_stairs():
    assert EDGES[:17] == [*range(1, 17), 24] and {32, 64, 128, 256, 512} <= set(EDGES)
    assert all(after <= 1.5 * before for before, after in zip(EDGES[1:], EDGES[2:], strict=False))


def test_the_assumed_speed_is_that_of_bytes_and_operations(tiny):
    guess, cost = assumed(tiny, "fp32", "fp32", threads=2), step_cost(tiny, "fp32", "fp32", Work(1, 1, 11, 11))
    assert guess(Work(1, 1, 11, 11)) == pytest.approx(2e-4 + cost.bytes / 16e9 + sum(cost.operations.values()) / 80e9)
    assert assumed(tiny, "fp32", "fp32", threads=4)(Work(1, 1, 11, 11)) < guess(Work(1, 1, 11, 11))


@pytest.mark.parametrize(("device", "weight_format"), [("cpu", "int8"), ("cuda", "bf16")])
def test_more_rows_and_more_context_take_longer(one_billion, device, weight_format):
    guess = assumed(one_billion, weight_format, "bf16", 2, device)
    for context in (0, 500, 5000):
        times = [guess(work(rows, context)) for rows in (1, 8, 64, 512)]
        assert times == sorted(set(times))
    for rows in (1, 8, 64, 512):
        times = [guess(work(rows, context)) for context in (0, 500, 5000)]
        assert times == sorted(set(times))


@pytest.mark.parametrize(("device", "weight_format"), [(device, name) for device, names in LINEAR_ARITHMETIC.items() for name in names])
def test_every_weight_format_has_an_assumed_speed(tiny, device, weight_format):
    assert weight_format in WEIGHT_FORMATS
    assert assumed(tiny, weight_format, "bf16", 2, device)(work(3)) > 0


def test_a_layer_with_a_window_costs_no_more_than_its_window(tiny):
    """Of two layers one sees 100 positions: beyond them only the other one's cost grows."""
    first, second = tiny.layers
    narrow = replace(tiny, layers=(first, replace(second, mixer=replace(second.mixer, window=100))))
    both, one = (assumed(spec, "fp32", "fp32", 2) for spec in (tiny, narrow))
    growth = [guess(work(1, 5000)) - guess(work(1, 1000)) for guess in (both, one)]
    assert growth[1] == pytest.approx(growth[0] / 2) and one(work(1, 50)) == pytest.approx(both(work(1, 50)))
