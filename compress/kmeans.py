"""How well a few values can stand for many numbers: k-means on a line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 50
"""Rounds of moving the centres, at most; as many as GHOST makes."""

MARKS = 8
"""Quantiles for each centre that the first guess is made from."""

WEIGHTS_EACH = 16
"""Numbers that a centre stands for, at least: fewer, and it is the numbers themselves."""


def distortion(values: NDArray[np.float64], bits: int) -> float:
    """Mean squared distance to the nearest of ``2 ** bits`` fitted centres, over the variance.

    The score of GHOST's bit search (Zhang et al., 2023: inertia over the number of weights) divided
    by the variance, so that it says how numbers are spread and not how large they are: 0 where the
    centres are the numbers, 4 ** -bits where these are spread evenly, 2.7 times that for many
    normally distributed ones, more for longer tails.

    Few numbers get fewer centres, so that each stands for `WEIGHTS_EACH` of them; each bit that is
    missing then counts for a quarter, which is what a bit gains where there are many centres. A
    depthwise layer of 144 weights would have a centre for every weight otherwise, and seem to lose
    nothing.

    Args:
        values: N numbers.
        bits: 1 or more.
    """
    spread = float(values.var())
    if spread == 0:
        return 0.0
    affordable = int(np.log2(max(2, values.size // WEIGHTS_EACH)))
    fitted = min(bits, affordable)
    return inertia(values, 2**fitted) / values.size / spread * 4.0 ** (fitted - bits)


def inertia(values: NDArray[np.float64], clusters: int) -> float:
    """Sum of squared distances to the nearest of the centres that k-means finds (Lloyd, 1982).

    On a line the clusters are intervals, so that a round costs no more than finding their ends in
    the sorted numbers. Nothing is drawn: the first guess follows from the numbers.

    Args:
        values: N numbers.
        clusters: 1 or more.
    """
    ordered = np.sort(values)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    centres = _guess(ordered, clusters)
    for _ in range(ROUNDS):
        ends = np.searchsorted(ordered, _between(centres))
        cuts = np.concatenate(([0], ends, [ordered.size]))
        counts = np.diff(cuts)
        means = np.diff(sums[cuts]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centres)  # nobody's centre stays where it is
        if np.array_equal(moved, centres):
            break
        centres = moved
    nearest = centres[np.searchsorted(_between(centres), ordered)]
    return float(np.square(ordered - nearest).sum())


def _between(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return (centres[1:] + centres[:-1]) / 2


def _guess(ordered: NDArray[np.float64], clusters: int) -> NDArray[np.float64]:
    """Centres as dense as the third root of the density (Panter and Dite, 1951).

    That is where very many of them belong. From evenly spaced quantiles, which are too dense where
    the numbers are, 256 centres would need thousands of rounds to spread into the tails.
    """
    places = np.linspace(0, ordered.size - 1, MARKS * clusters + 1).round().astype(np.intp)
    marks = ordered[places]
    # between two marks lie equally many numbers: the density is one over the gap
    mass = np.concatenate(([0.0], np.cumsum(np.diff(marks) ** (2 / 3))))
    wanted = (np.arange(clusters) + 0.5) / clusters * mass[-1]
    return np.asarray(np.interp(wanted, mass, marks), np.float64)
