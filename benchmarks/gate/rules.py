"""How several tools decide that something became slower, each as a function of what was measured.

A rule sees the milliseconds of every image of every process, of both sides, and says whether it
would fail the build. Where a tool leaves a choice, the one is taken that suits it: a rule that
would compare two processes gets several, so that the chance of one process weighs less.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from replay import Order, Playback, Runs, Samples

from devices.gate.judge import LOOKS, Verdict, hopeless, judge
from devices.gate.rounds import FLOORS, SHARES, baseline_first

RUN_SECONDS = 1.0
"""What pytest-benchmark spends on a benchmark unless told otherwise (``--benchmark-max-time``)."""

ASV_SAMPLE_MS = 10.0
ASV_REPEAT = 5
ASV_ROUNDS = 2
REPETITIONS = 9


def pocketgan(playback: Playback) -> Verdict:
    """The gate of this project: `devices.gate.judge`, with its looks, on latencies.

    Latency is one of the questions that `pocketgan gate` asks, so it pays for
    all of them. Memory and cold start are not played back.
    """
    baseline: list[float] = []
    candidate: list[float] = []
    verdict: Verdict = "inconclusive"
    for number in range(LOOKS[-1]):
        sides = [(baseline, playback.baseline), (candidate, playback.candidate)]
        for kept, measure in sides if baseline_first(number) else reversed(sides):
            kept.append(float(np.median(measure())))
        if number + 1 in LOOKS:
            judged = judge(baseline, candidate, floor=FLOORS["steady"], cells=1 / SHARES["steady"])
            verdict = judged.verdict
            if verdict != "inconclusive" or hopeless(judged):
                break
    return verdict


def pytest_benchmark(baseline: Runs, candidate: Runs) -> bool:
    """``--benchmark-compare-fail=min:5%``: the quickest image is over 5 % slower than it was.

    Source: pytest-benchmark, ``utils.py``, ``PercentageRegressionCheck``; ``docs/usage.rst`` for
    the least rounds (5) and the longest time (1 s). The run it compares with is a stored one.
    """
    quickest = [min(float(run.min()) for run in runs) for runs in (baseline, candidate)]
    return quickest[1] / quickest[0] * 100 - 100 > 5


def github_action_benchmark(baseline: Runs, candidate: Runs, *, percent: float) -> bool:
    """The mean is over so many percent of that of the run before; 200 by default.

    Source: github-action-benchmark, ``src/write.ts``, ``findAlerts``, and ``action.yml`` for
    ``alert-threshold`` and ``fail-threshold``. Of pytest-benchmark's figures it takes ``ops``, one
    over the mean (``src/extract.ts``). The run before is what the branch stores.
    """
    means = [float(np.concatenate(runs).mean()) for runs in (baseline, candidate)]
    return means[1] / means[0] * 100 > percent


def google_benchmark(baseline: Runs, candidate: Runs) -> bool:
    """``compare.py``: a two-sided U test of the repetitions has p below 0.05, and it grew.

    Source: google/benchmark, ``tools/gbench/report.py``, ``calc_utest``, with scipy's choice of the
    exact test up to 8; ``docs/tools.md`` for "no less than 9" repetitions. A repetition is the mean
    of its iterations; here that of a process. It runs all of one program, then the other.
    """
    first, second = ([float(run.mean()) for run in runs] for runs in (baseline, candidate))
    exact = min(len(first), len(second)) <= 8
    return u_test(first, second, exact=exact) < 0.05 and (
        statistics.fmean(second) > statistics.fmean(first)
    )


def asv(baseline: Runs, candidate: Runs) -> bool:
    """``asv continuous``: the medians are a factor of 1.1 apart, and a U test has p below 0.002.

    Source: asv, ``commands/compare.py``, ``_is_result_better``, and ``_stats.py``,
    ``is_different`` (exact up to 20 samples); ``docs/source/benchmarks.rst`` for samples of 10 ms,
    5 of them in each of 2 processes. This is with ``--record-samples --interleave-rounds``. Without
    the first it asks that 99 % intervals do not overlap, which of ten samples is a harder test.

    Raises:
        ValueError: Too few samples for any p below 0.002.
    """
    first, second = (
        [sample for run in runs for sample in _asv_samples(run)] for runs in (baseline, candidate)
    )
    if 1 / math.comb(len(first) + len(second), len(first)) >= 0.002:
        raise ValueError(f"{len(first)} and {len(second)} samples; asv's U test needs six of each")
    if statistics.median(first) >= statistics.median(second) / 1.1:
        return False
    return u_test(first, second, exact=max(len(first), len(second)) <= 20) < 0.002


def _asv_samples(run: Samples) -> list[float]:
    """Five samples of a process, each the mean of as many images as last 10 ms."""
    number = max(1, math.ceil(ASV_SAMPLE_MS / float(np.median(run))))
    count = min(ASV_REPEAT, len(run) // number)
    samples: list[float] = run[: count * number].reshape(count, number).mean(axis=1).tolist()
    return samples


def t_test(baseline: Runs, candidate: Runs) -> bool:
    """Welch's t-test with every image as a sample has p below 0.05, and the mean grew.

    What is done where nobody chose a tool. With the hundreds of images here Student's distribution
    is the normal one.
    """
    first, second = (np.concatenate(runs) for runs in (baseline, candidate))
    grown = float(second.mean() - first.mean())
    error = math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return grown > 0 and two_sided(grown / error if error else math.inf) < 0.05


def u_test(first: list[float], second: list[float], *, exact: bool) -> float:
    """Two-sided p-value of Mann and Whitney's test, 1947.

    Args:
        first: Samples of one kind.
        second: Samples of the other.
        exact: Count the orderings rather than take the normal distribution; where values are tied,
            it is the latter all the same.
    """
    m, n = len(first), len(second)
    values, counts = np.unique(np.array([*first, *second]), return_counts=True)
    upper = np.cumsum(counts)
    midranks = upper - (counts - 1) / 2
    u = float(midranks[np.searchsorted(values, first)].sum()) - m * (m + 1) / 2
    below = min(u, m * n - u)
    tied = len(values) < m + n
    if exact and not tied:
        return min(1.0, 2 * float(_orderings(m, n)[: int(below) + 1].sum()))
    ties = float((counts**3 - counts).sum()) / ((m + n) * (m + n - 1))
    error = math.sqrt(m * n / 12 * (m + n + 1 - ties))
    # half a step towards the middle, since ranks are whole numbers
    return two_sided(max(0.0, m * n / 2 - below - 0.5) / error) if error else 1.0


@functools.cache
def _orderings(m: int, n: int) -> Samples:
    """Chance of each U from 0 to m n if all orderings are alike: Gaussian binomial coefficients."""
    ways = np.zeros(m * n + 1)
    ways[0] = 1.0
    for factor in range(1, m + 1):
        # times (1 - q^(n + factor)), then divided by (1 - q^factor)
        high = ways.copy()
        high[n + factor :] -= ways[: max(0, len(ways) - n - factor)]
        for at in range(factor, len(high)):
            high[at] += high[at - factor]
        ways = high
    return ways / math.comb(m + n, m)


def two_sided(z: float) -> float:
    """Chance of a normal variable this far from zero or farther, on either side."""
    return math.erfc(abs(z) / math.sqrt(2))


@dataclass(frozen=True)
class Rule:
    """A rule that is compared with the gate of this project.

    Attributes:
        name: As it is known.
        slower: Whether it calls the candidate slower.
        order: How it runs its sides.
        processes: How many of each side it runs by itself; None: as many as have images for
            `RUN_SECONDS`, since here a process measures for less.
    """

    name: str
    slower: Callable[[Runs, Runs], bool]
    order: Order
    processes: int | None


RULES = (
    Rule("pytest-benchmark min:5%", pytest_benchmark, "stored", None),
    Rule(
        "github-action-benchmark 110 %",
        functools.partial(github_action_benchmark, percent=110),
        "stored",
        None,
    ),
    Rule(
        "github-action-benchmark 200 %",
        functools.partial(github_action_benchmark, percent=200),
        "stored",
        None,
    ),
    Rule("google/benchmark U test 0.05", google_benchmark, "in turn", REPETITIONS),
    Rule("asv factor 1.1, U test 0.002", asv, "interleaved", ASV_ROUNDS),
    Rule("t-test on images", t_test, "in turn", None),
)
