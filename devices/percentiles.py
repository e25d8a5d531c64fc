"""Percentiles of a latency, with the upper bound that so many samples can support.

The bound is an order statistic: of n independent samples, the one with t larger ones beside it
lies above the true percentile with 99 % confidence, if t is small enough for the binomial tail.
These are the early-stopping rules of MLPerf inference for a single stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from devices.profile import Frozen

CONFIDENCE = 0.99


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
