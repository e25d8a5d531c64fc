import itertools

import numpy as np
import pytest

from devices.latency import (
    MODES,
    Mode,
    interleave,
    measure,
    peak_rss_mib,
    rotated,
    timed,
)

IMAGES = np.zeros((1, 3, 4, 4), dtype=np.float32)


def test_load_first_and_steady_are_apart(clock):
    def load():
        clock.now += 2.0
        return clock.takes(0.5, 0.01)

    timing = measure(load, IMAGES, Mode(5, 0, 60), warmup_seconds=0, clock=clock)
    assert timing.load_ms == pytest.approx(2000)
    assert timing.first_ms == pytest.approx(500)
    assert timing.samples_ms == pytest.approx([10.0] * 5)


def test_the_warm_up_is_not_measured(clock):
    slow_start = [1.0] * 4 + [0.01]
    timing = measure(
        lambda: clock.takes(*slow_start),
        IMAGES,
        Mode(5, 0, 60),
        warmup_runs=3,
        warmup_seconds=0,
        clock=clock,
    )
    assert timing.samples_ms == pytest.approx([10.0] * 5)


def test_the_warm_up_lasts_as_long_as_clocks_need_to_rise(clock):
    session = clock.takes(0.01)
    measure(lambda: session, IMAGES, Mode(1, 0, 60), warmup_seconds=0.5, clock=clock)
    assert session.runs == pytest.approx(1 + 50 + 1, abs=1)


@pytest.mark.parametrize(
    ("each", "mode", "count"),
    [
        (0.5, Mode(8, 2.0, 60), 8),  # the count decides
        (0.25, Mode(3, 2.0, 60), 8),  # the time decides
        (0.5, Mode(100, 2.0, 4.0), 8),  # the end decides
    ],
)
def test_it_ends_with_enough_samples_and_enough_time(clock, each, mode, count):
    timing = measure(lambda: clock.takes(each), IMAGES, mode, warmup_seconds=0, clock=clock)
    assert len(timing.samples_ms) == count


def test_the_default_mode_shows_a_p99_of_a_fast_engine_in_ten_seconds(clock):
    timing = measure(lambda: clock.takes(0.005), IMAGES, MODES["fast"], clock=clock)
    assert len(timing.samples_ms) >= 459
    assert clock.now < 12


def test_a_longer_mode_never_measures_less():
    modes = [MODES[name] for name in ("rapid", "fast", "normal")]
    for shorter, longer in itertools.pairwise(modes):
        assert shorter.min_samples < longer.min_samples
        assert shorter.min_seconds < longer.min_seconds
        assert shorter.max_seconds < longer.max_seconds


def test_a_runner_warms_up_and_then_measures(clock):
    runner = timed(clock.takes(9.0, 9.0, 0.01), IMAGES, clock)
    assert runner(3) == pytest.approx([10.0] * 3)


def test_a_runner_warms_up_again_after_each_switch(clock):
    session = clock.takes(0.01)
    runner = timed(session, IMAGES, clock)
    assert interleave({"a": runner}, rounds=3, per_round=4)["a"] == pytest.approx([10.0] * 12)
    assert session.runs == 3 * (2 + 4)


def test_interleaving_rotates_the_order():
    order = []

    def runner(name):
        def run(count):
            order.append(name)
            return [float(len(order))] * count

        return run

    samples = interleave({name: runner(name) for name in "abc"}, rounds=3, per_round=2)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert samples["a"] == [1.0, 1.0, 6.0, 6.0, 8.0, 8.0]


def test_two_sides_go_first_in_turn():
    assert [rotated(["a", "b"], number) for number in range(3)] == [
        ["a", "b"],
        ["b", "a"],
        ["a", "b"],
    ]


def test_nothing_to_interleave():
    assert interleave({}, rounds=2, per_round=1) == {}


def test_the_peak_is_read_from_the_kernel(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t  204800 kB\n")
    assert peak_rss_mib(status) == 200.0


def test_without_the_kernel_it_is_what_the_process_holds(tmp_path):
    assert 1 < peak_rss_mib(tmp_path / "none") < 100_000
