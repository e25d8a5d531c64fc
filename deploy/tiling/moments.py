"""Statistics of a map that is seen one tile at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deploy.tiling.sessions import Values


class Moments:
    """Mean and variance of each channel over tiles that come one after the other.

    Each tile is centred at its own mean before it is squared, and tiles are put together in float64
    (Chan, Golub and LeVeque, 1979): a mean far from 0 costs no digits.

    Args:
        channels: How many.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, tile: Values) -> None:
        """Take in a tile, (C, H, W)."""
        count = tile.shape[1] * tile.shape[2]
        mean = tile.mean(axis=(1, 2), dtype=np.float64)
        centred = tile - mean.astype(np.float32)[:, None, None]
        # float32 along a row, float64 over rows
        rows = np.einsum("chw,chw->ch", centred, centred)
        slack = centred.sum(axis=2).sum(axis=1, dtype=np.float64)  # the mean was rounded
        squares = rows.sum(axis=1, dtype=np.float64) - slack**2 / count
        total = self._count + count
        apart = mean - self._mean
        self._squares += squares + apart**2 * (self._count * count / total)
        self._mean += apart * (count / total)
        self._count = total

    def mean(self) -> NDArray[np.float32]:
        """Of each channel, (C,)."""
        return self._mean.astype(np.float32)

    def factor(self, epsilon: float) -> NDArray[np.float32]:
        """One over the root of variance plus epsilon, (C,)."""
        return (1.0 / np.sqrt(self._squares / self._count + epsilon)).astype(np.float32)
