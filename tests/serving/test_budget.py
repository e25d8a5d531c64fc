import numpy as np
import pytest

from devices.profile import LatencyBudget, PowerMode
from devices.session import StubSession
from serving import budget as room
from serving.budget import EVERY, RECENT, RUNS, STALE_S, BudgetWatch, check_at_start, over_budget
from serving.models import load_model, read_bundle
from serving.settings import ServingSettings

BUDGET = LatencyBudget(p50_ms=5, p90_ms=6, p99_ms=7)
SHAPE = (1, 3, 32, 32)


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    return BudgetWatch(32, BUDGET, clock)


@pytest.fixture
def profile(manifest):
    return manifest.profile


def engine_of(clock, times_ms):
    """An engine that takes the times given, the last of them again and again."""
    left = list(times_ms)

    def run(images):
        assert images.shape == SHAPE
        clock.now += (left.pop(0) if len(left) > 1 else left[0]) / 1e3
        return -images

    return StubSession(run)


def feed(watch, ms, count):
    for _ in range(count):
        watch.ran(SHAPE, ms)


def test_a_fast_engine_is_within_its_budget(clock, profile):
    check = check_at_start(engine_of(clock, [4.0]), profile, clock)
    assert check.runs == RUNS == 44
    assert check.p50_ms == pytest.approx(4)
    assert check.p90_ms == pytest.approx(4)
    assert check.within_budget
    assert check.detail == "within the budget over 44 images"
    assert check.budget == BUDGET


def test_a_slow_engine_is_over_its_budget_in_words(clock, profile):
    check = check_at_start(engine_of(clock, [5.5]), profile, clock)
    assert not check.within_budget
    assert check.detail == "p50 is 5.50 ms, the budget is 5 ms"


def test_the_first_image_being_slow_decides_nothing(clock, profile):
    assert check_at_start(engine_of(clock, [500.0, 4.0]), profile, clock).within_budget


def test_a_very_slow_engine_is_judged_by_fewer_images(clock, profile):
    check = check_at_start(engine_of(clock, [600.0]), profile, clock)
    assert check.runs == 7  # four take more than two seconds, and a median wants seven
    assert check.p90_ms is None
    assert "p50 is 600.00 ms" in check.detail


def test_the_budget_is_that_of_the_power_mode(clock, profile, monkeypatch):
    slow = LatencyBudget(p50_ms=50, p90_ms=60, p99_ms=70)
    modes = (PowerMode(name="7W", budget=slow, source="test"), PowerMode(name="15W", source="test"))
    board = profile.model_copy(update={"power_modes": modes})

    class Machine:
        power_mode = "7W"

    monkeypatch.setattr(room, "this_machine", Machine)
    check = check_at_start(engine_of(clock, [40.0]), board, clock)
    assert (check.power_mode, check.budget, check.within_budget) == ("7W", slow, True)
    Machine.power_mode = "15W"
    assert not check_at_start(engine_of(clock, [40.0]), board, clock).within_budget


def test_what_is_not_known_is_not_over():
    assert over_budget(5.0, None, BUDGET) == ""
    assert over_budget(5.1, 6.1, BUDGET) == (
        "p50 is 5.10 ms, the budget is 5 ms; p90 is 6.10 ms, the budget is 6 ms"
    )


def test_nothing_is_said_before_there_are_enough_images(watch):
    feed(watch, 50.0, RUNS - 1)
    assert watch.degraded == ""
    feed(watch, 50.0, 1)
    assert watch.degraded == (
        "p50 is 50.00 ms, the budget is 5 ms; p90 is 50.00 ms, the budget is 6 ms"
    )


def test_one_slow_image_changes_nothing(watch):
    feed(watch, 4.0, RUNS)
    feed(watch, 5000.0, 1)
    assert watch.degraded == ""


def test_other_sizes_and_batches_do_not_count(watch):
    for shape in ((1, 3, 64, 64), (2, 3, 32, 32), (1, 3, 32, 36)):
        for _ in range(RECENT):
            watch.ran(shape, 50.0)
    assert watch.degraded == ""


def test_being_within_the_budget_by_a_hair_is_not_yet_well(watch):
    feed(watch, 50.0, RECENT)
    assert "p50 is 50.00 ms" in watch.degraded
    feed(watch, 4.9, RECENT)
    assert watch.degraded == "only just within its budget again (p90 4.90 ms)"
    feed(watch, 4.4, RECENT)
    assert watch.degraded == ""
    feed(watch, 4.9, RECENT)  # the same speed, from the other side
    assert watch.degraded == ""


def test_what_is_long_ago_says_nothing(watch, clock):
    feed(watch, 50.0, RECENT)
    assert watch.degraded
    clock.now += STALE_S + 1
    assert watch.degraded == ""


def test_it_is_noticed_while_images_run_and_not_only_when_asked(watch, clock):
    feed(watch, 50.0, RUNS - RUNS % EVERY + EVERY)
    clock.now += STALE_S - 1
    feed(watch, 4.0, EVERY)
    assert "p90 is 50.00 ms" in watch.degraded


def test_the_engine_of_a_loaded_model_is_watched(seal_bundle, monkeypatch):
    bundle = read_bundle(seal_bundle())
    settings = ServingSettings(latency_policy="off", max_together=1)

    def opener(engine, profile, *, backend, precision):
        return StubSession()

    loaded = load_model(bundle, settings, opener)
    images = np.zeros(SHAPE, np.float32)
    seen = []
    monkeypatch.setattr(loaded.watch, "ran", lambda shape, ms: seen.append((shape, ms >= 0)))
    with loaded.translator.instances.turn() as session:
        session.run(images)
    assert seen == [(SHAPE, True)]
