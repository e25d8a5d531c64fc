import itertools
import json
from contextlib import contextmanager

import numpy as np
import pytest

from devices.latency import (
    MODES,
    UNWATCHED,
    Mode,
    interleave,
    measure,
    peak_rss_mib,
    read_report,
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
        assert shorter.cold_starts < longer.cold_starts
        assert shorter.cooldown_s < longer.cooldown_s


def test_the_short_modes_are_those_of_mlperf_mobile():
    # flutter/assets/tasks.pbtxt of mlcommons/mobile_app_open; "quick" there is "fast" here
    assert (MODES["rapid"].min_samples, MODES["rapid"].min_seconds) == (64, 6)
    assert MODES["fast"].min_seconds == 10
    assert (MODES["normal"].min_samples, MODES["normal"].min_seconds) == (1024, 60)


def test_only_the_single_stream_is_watched(clock):
    seen = []

    @contextmanager
    def beside():
        seen.append(clock.now)
        yield
        seen.append(clock.now)

    measure(
        lambda: clock.takes(1.0, 0.5, 0.01),
        IMAGES,
        Mode(5, 0, 60),
        warmup_runs=2,
        warmup_seconds=0,
        clock=clock,
        beside=beside,
    )
    # the first image, and two to warm up
    assert seen == pytest.approx([1.51, 1.56])


def version_1(report) -> dict:
    """A report as it was written before cold starts and before the machine was watched."""
    values = json.loads(report.model_dump_json())
    for later in ("mode", "cold_ms", "conditions"):
        del values[later]
    return values | {"schema_version": 1}


def test_a_report_of_the_former_version_is_read(make_report):
    report = make_report()
    read = read_report(json.dumps(version_1(report)))
    unknown = {"mode": None, "cold_ms": (), "conditions": UNWATCHED}
    assert read == report.model_copy(update=unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "of schema_version 3; this pocketgan reads 1 and 2: measure again"),
        ({"schema_version": None}, "of schema_version None"),
        ({"schema_version": 1, "mode": "fast"}, None),
        ({"load_ms": "quick"}, "latency report: load_ms = 'quick'"),
        ({"clocks": 3}, "latency report: unknown key 'clocks'"),
    ],
)
def test_a_report_that_cannot_be_read_says_why(make_report, change, message):
    values = json.loads(make_report().model_dump_json()) | change
    if message is None:  # what a former version could not hold is written over
        assert read_report(json.dumps(values)).mode is None
        return
    with pytest.raises(ValueError, match=message):
        read_report(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[1]", "nonsense", b"\xff\xfe"])
def test_what_is_no_report(text):
    with pytest.raises(ValueError, match="not a latency report of pocketgan check --json"):
        read_report(text)


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
