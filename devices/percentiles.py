"""Percentiles of a latency, with the upper bound that so many samples can support.

The bound is an order statistic: of n independent samples, the one with t larger ones beside it
lies above the true percentile with 99 % confidence, if t is small enough for the binomial tail.
These are the early-stopping rules of MLPerf inference for a single stream. Images that follow each
other on one machine are not quite independent; `independent_count` says how far from it they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from devices.profile import Frozen

CONFIDENCE = 0.99

Z_99 = 2.33
"""A standard normal is below this 99 times in 100."""

MIN_PIECES = 7
"""A variance of fewer numbers says next to nothing."""


class Percentile(Frozen):
    """One percentile of a latency.

    Attributes:
        value_ms: The estimate, in milliseconds.
        upper_ms: Above the true percentile with 99 % confidence, if samples are independent.
    """

    value_ms: float
    upper_ms: float


def percentile(samples_ms: Sequence[float], percent: int) -> Percentile | None:
    """A percentile and its bound, or None where there are too few samples to bound it.

    p50 wants 7 samples, p90 44, p95 90 and p99 459 (`smallest_count`).
    """
    over = allowed_over(len(samples_ms), percent)
    if over is None:
        return None
    ordered = sorted(samples_ms)
    return Percentile(
        value_ms=float(np.percentile(ordered, percent)), upper_ms=float(ordered[-1 - over])
    )


def allowed_over(count: int, percent: int) -> int | None:
    """How many of ``count`` samples may exceed the bound of a percentile; None: not even zero."""
    allowed = None
    chance = 0.0
    for over in range(count + 1):
        chance += _chance(count, over, 1 - percent / 100)
        if chance > 1 - CONFIDENCE:
            break
        allowed = over
    return allowed


def independent_count(samples_ms: Sequence[float], percent: int) -> int:
    """How many independent images would scatter around a percentile as much as these do.

    A neighbour, a clock step or a page of memory slows several images in a row, so slow ones come
    in clumps, and a bound that counts each for itself is too tight. The stream is cut into about
    sqrt(n) pieces; independent images put about equally many slow ones into each (binomial), and
    clumps put more into some. The ratio of the two variances (index of dispersion) is by how much
    the images count for less. A ratio that one stream of independent images in 100 shows by luck
    changes nothing.

    Args:
        samples_ms: Latencies in the order in which they were measured.
        percent: Which percentile; slow is what lies above its estimate.

    Returns:
        From 1 to the number of samples; with fewer than 49 that number, for they cannot say.
    """
    values = np.asarray(samples_ms, dtype=np.float64)
    pieces = math.isqrt(len(values))
    if pieces < MIN_PIECES:
        return len(values)
    slow = values > np.percentile(values, percent)
    share = float(slow.mean())
    if share == 0.0:  # all that are above it are equal to it
        return len(values)
    begins = np.arange(pieces) * len(values) // pieces
    each = np.add.reduceat(slow.astype(np.float64), begins)
    ratio = float(each.var(ddof=1)) / (len(values) / pieces * share * (1 - share))
    by_luck = 1 + Z_99 * math.sqrt(2 / (pieces - 1))  # chi-square over its degrees of freedom
    return len(values) if ratio <= by_luck else max(1, round(len(values) / ratio))


def smallest_count(percent: int, over: int = 0) -> int:
    """The fewest samples of which ``over`` may exceed the bound of a percentile."""

    def enough(count: int) -> bool:
        allowed = allowed_over(count, percent)
        return allowed is not None and allowed >= over

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _chance(count: int, hits: int, each: float) -> float:
    """Binomial probability, by logarithms so that thousands of samples do not overflow."""
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(each) + (count - hits) * math.log1p(-each))
