import pytest

from serving.latency import WINDOW, Series


def series_of(count: int) -> Series:
    series = Series()
    for sample in range(count, 0, -1):
        series.add(float(sample))
    return series


def test_without_samples_nothing_is_claimed():
    seen = series_of(0).percentiles()
    assert (seen.count, seen.p50_ms, seen.p90_ms, seen.p99_ms) == (0, None, None, None)


@pytest.mark.parametrize(
    ("count", "p50_ms", "p90_ms", "p99_ms"),
    [
        (6, None, None, None),
        (7, 4.0, None, None),
        (43, 22.0, None, None),
        (44, 22.5, 39.7, None),
        (458, 229.5, 412.3, None),
        (459, 230.0, 413.2, 454.42),
    ],
)
def test_a_percentile_is_stated_once_enough_samples_support_it(count, p50_ms, p90_ms, p99_ms):
    seen = series_of(count).percentiles()
    assert (seen.p50_ms, seen.p90_ms, seen.p99_ms) == pytest.approx((p50_ms, p90_ms, p99_ms))


def test_the_window_moves_and_the_count_does_not_stop():
    series = series_of(WINDOW)
    for _ in range(WINDOW):
        series.add(0.5)

    seen = series.percentiles()

    assert (seen.count, seen.window, seen.p99_ms) == (2 * WINDOW, WINDOW, 0.5)
