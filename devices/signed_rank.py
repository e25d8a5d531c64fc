"""The exact signed-rank test (Wilcoxon, 1945) for pairs, and the estimate that belongs to it.

Exact for any number of pairs: the distribution under the null is counted, not approximated.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def p_value_above_zero(differences: Sequence[float]) -> float:
    """Chance of signed ranks this high or higher if the differences were symmetric about zero.

    One-sided. Ties share their rank; a difference of zero counts as one that is not above.

    Args:
        differences: One per pair, at least one.
    """
    values = np.asarray(differences, dtype=np.float64)
    # twice the midrank, so that ties stay whole numbers
    size = np.abs(values)
    ranks = [int(np.sum(size < one) * 2 + np.sum(size == one) + 1) for one in size]
    observed = sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0)
    return float(_distribution(ranks)[observed:].sum())


def estimate(differences: Sequence[float]) -> float:
    """The shift of the differences: the median of their pairwise means (Hodges and Lehmann)."""
    return float(np.median(pairwise_means(np.asarray(differences, dtype=np.float64))))


def upper_limit(differences: Sequence[float], confidence: float) -> float:
    """The shift lies below this with the given confidence; infinite where pairs are too few."""
    drop = droppable(len(differences), 1 - confidence)
    if drop is None:
        return math.inf
    means = np.sort(pairwise_means(np.asarray(differences, dtype=np.float64)))
    return float(means[-1 - drop])


def pairwise_means(values: Values) -> Values:
    """Means of every pair of values, each with itself too: (..., n) -> (..., n (n + 1) / 2)."""
    first, second = np.triu_indices(values.shape[-1])
    means: Values = (values[..., first] + values[..., second]) / 2
    return means


@functools.cache
def droppable(pairs: int, alpha: float) -> int | None:
    """The largest signed-rank sum whose lower tail is at most ``alpha``; None: not even zero.

    It is also how many of the largest (or smallest) pairwise means lie beyond the limit of a
    one-sided interval.
    """
    # ranks doubled, as in the test; without ties the sums are even
    tail = itertools.accumulate(_distribution([2 * rank for rank in range(1, pairs + 1)])[::2])
    below = sum(1 for chance in itertools.takewhile(lambda chance: chance <= alpha, tail))
    return below - 1 if below else None


def _distribution(ranks: Sequence[int]) -> Values:
    """Chance of each sum of ranks when every rank is in or out like the toss of a coin."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        moved = np.zeros_like(chances)
        moved[rank:] = chances[: len(chances) - rank]
        chances = (chances + moved) / 2
    return chances
