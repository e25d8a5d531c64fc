"""Distances between two sets of images, from their feature vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""(N, D): one feature vector an image."""

BLOCK = 1024
"""Rows of the kernel matrix computed at once, to bound memory."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors.

    The covariance is kept as a factor, because its square root is then exact: 120 images span 119
    of 2048 dimensions, and the square root of a rounding error in one of the other 1929 is
    a million times the error.

    Attributes:
        mean: (D,).
        factor: (R, D); ``factor.T @ factor`` is the unbiased covariance.
    """

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]

    @classmethod
    def of(cls, features: Features) -> Statistics:
        """Mean and covariance of the rows, in float64.

        Raises:
            ValueError: Fewer than two rows.
        """
        count, width = features.shape
        if count < 2:
            raise ValueError(f"a covariance takes at least 2 images, got {count}")
        rows = features.astype(np.float64)
        mean = rows.mean(axis=0)
        factor = (rows - mean) / np.sqrt(count - 1)
        if count > width:
            factor = np.linalg.qr(factor, mode="r")
        return cls(mean, factor)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet (2-Wasserstein) distance between two Gaussians.

    |m_a - m_b|^2 + Tr(C_a) + Tr(C_b) - 2 Tr((C_a C_b)^(1/2)) (Heusel et al., 2017, eq. 6). With
    C_a = A'A and C_b = B'B the last trace is the sum of the singular values of A B'. It is FID
    only for the features of the 2015 Inception network.
    """
    difference = a.mean - b.mean
    overlap = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    spread = np.square(a.factor).sum() + np.square(b.factor).sum()
    return float(difference @ difference + spread - 2.0 * overlap)


def kernel_distance(a: Features, b: Features) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased.

    Binkowski et al., "Demystifying MMD GANs", 2018. Over all pairs of images: the mean over random
    subsets that others report has the same expectation and more noise. It can be below zero.

    Raises:
        ValueError: Fewer than two rows in one of them.
    """
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise ValueError(f"a kernel distance takes at least 2 images a side, got {n} and {m}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    within_a = (_kernel_sum(x, x) - _kernel_trace(x)) / (n * (n - 1))
    within_b = (_kernel_sum(y, y) - _kernel_trace(y)) / (m * (m - 1))
    return within_a + within_b - 2.0 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    width = x.shape[1]
    return sum(
        float(((x[start : start + BLOCK] @ y.T / width + 1.0) ** 3).sum())
        for start in range(0, len(x), BLOCK)
    )


def _kernel_trace(x: NDArray[np.float64]) -> float:
    return float((((x * x).sum(axis=1) / x.shape[1] + 1.0) ** 3).sum())
