"""What may be said of a chance after so many tries."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def at_most(hits: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The chance of something seen so often is at most this (Clopper and Pearson, 1934).

    One-sided: where the chance is higher, so few hits come up in at most 5 of 100 tries.
    """
    if hits >= of:
        return 1.0
    low, high = hits / of, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _chance_up_to(hits, of, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def at_least(hits: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The chance of something seen so often is at least this, one-sided."""
    return 1 - at_most(of - hits, of, confidence) if of else 0.0


def _chance_up_to(hits: int, of: int, chance: float) -> float:
    """Of so many hits or fewer, each of that chance between 0 and 1."""
    return sum(
        math.exp(
            math.lgamma(of + 1)
            - math.lgamma(count + 1)
            - math.lgamma(of - count + 1)
            + count * math.log(chance)
            + (of - count) * math.log1p(-chance)
        )
        for count in range(hits + 1)
    )
