import numpy as np
import pytest

from devices.percentiles import allowed_over, independent_count, percentile, smallest_count

# MLPerf's early-stopping rule at 99 % confidence: the fewest samples for so many over the bound.
# 662 is the count that MLPerf publishes for multi-stream; the others are the same sum.
OVER = (0, 1, 2, 3, 5, 10, 20, 50)
COUNTS = {
    90: (44, 64, 81, 97, 127, 197, 325, 681),
    95: (90, 130, 165, 198, 259, 398, 656, 1372),
    99: (459, 662, 838, 1001, 1307, 2010, 3304, 6898),
}


@pytest.mark.parametrize(
    ("percent", "over", "count"),
    [
        (percent, over, count)
        for percent, row in COUNTS.items()
        for over, count in zip(OVER, row, strict=True)
    ],
)
def test_the_table_of_early_stopping(percent, over, count):
    assert smallest_count(percent, over) == count
    assert allowed_over(count, percent) == over
    assert allowed_over(count - 1, percent) == (over - 1 if over else None)


@pytest.mark.parametrize(("percent", "enough"), [(50, 7), (90, 44), (95, 90), (99, 459)])
def test_too_few_samples_have_no_percentile(percent, enough):
    samples = [float(number) for number in range(enough)]
    assert percentile(samples[:-1], percent) is None
    assert percentile(samples, percent).upper_ms == max(samples)


def test_no_samples_have_no_percentile():
    assert percentile([], 50) is None


def test_the_bound_drops_the_worst_samples_that_luck_explains():
    samples = [1.0] * 660 + [50.0, 100.0]
    assert percentile(samples, 99).upper_ms == 50.0


def test_the_order_of_samples_does_not_matter():
    samples = list(np.random.default_rng(0).gamma(5.0, size=500))
    assert percentile(samples, 99) == percentile(sorted(samples), 99)


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_the_bound_holds_99_times_in_100(percent):
    # uniform samples, so the true percentile is known
    rng = np.random.default_rng(percent)
    runs = 1000
    held = sum(
        percentile(list(rng.random(500)), percent).upper_ms >= percent / 100 for _ in range(runs)
    )
    assert held >= 0.98 * runs


def test_ten_thousand_samples_do_not_overflow():
    over = allowed_over(20_000, 99)
    assert 150 < over < 200  # 200 are expected over the 99th percentile


def clumped(rng, count, share, length):
    """Latencies of 1 ms with slow stretches of 2 ms: so much of the time, so long on average."""
    slow = []
    state = rng.random() < share
    for _ in range(count):
        leave = 1 / length if state else share / (1 - share) / length
        state = state != (rng.random() < leave)
        slow.append(1.0 + state + rng.random() * 1e-3)
    return slow


def test_independent_images_count_for_what_they_are():
    rng = np.random.default_rng(0)
    for percent, count in ((50, 100), (90, 500), (99, 2000)):
        full = sum(
            independent_count(list(rng.gamma(5.0, size=count)), percent) == count
            for _ in range(200)
        )
        assert full >= 190  # 198 are meant; counts of slow images are not quite normal


@pytest.mark.parametrize(("length", "least", "most"), [(5, 200, 1000), (40, 20, 250)])
def test_clumps_make_images_count_for_less(length, least, most):
    # a two-state chain counts for (1 - r) / (1 + r), r = 1 - 1 / length / (1 - share): 314 and 35
    rng = np.random.default_rng(length)
    counts = [independent_count(clumped(rng, 2500, 0.1, length), 90) for _ in range(20)]
    assert least <= np.median(counts) <= most


def test_a_machine_that_changed_half_way_counts_for_little():
    samples = [1.0 + i % 7 * 1e-3 for i in range(500)] + [2.0 + i % 7 * 1e-3 for i in range(500)]
    assert independent_count(samples, 50) < 100


@pytest.mark.parametrize("samples", [[], [1.0], [1.0] * 48, [1.0] * 5000])
def test_what_says_nothing_about_clumps_counts_in_full(samples):
    assert independent_count(samples, 90) == len(samples)
