"""A known slow-down: fixed work beside every image, so that a gate can be asked to find it.

Work and not sleep: a process that sleeps frees its core and lets the clock of the engine rest, and
timers are late by as much as the slow-down to be found.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from devices.session import Images, Session

SIDE = 48
"""Side of the matrices that are multiplied: some 10 microseconds, small enough for one thread."""


class Laden:
    """A session that multiplies small matrices so many times beside each image."""

    def __init__(self, session: Session, units: int) -> None:
        self._session = session
        self._units = units
        self._matrix = _matrix()

    def run(self, images: Images) -> Images:
        """Translate images, (N, C, H, W) in [-1, 1], and do the extra work."""
        answer = self._session.run(images)
        _multiply(self._matrix, self._units)
        return answer


def units_for(
    slowdown: float, median_ms: float, clock: Callable[[], float] = time.perf_counter
) -> int:
    """How many products last as long as a slow-down of an engine, on this machine now.

    Args:
        slowdown: As a fraction of the engine's latency.
        median_ms: That latency, in milliseconds.
        clock: Seconds from any start.
    """
    matrix = _matrix()
    _multiply(matrix, 200)
    took_s = []
    for _ in range(21):
        start = clock()
        _multiply(matrix, 100)
        took_s.append((clock() - start) / 100)
    return max(1, math.ceil(slowdown * median_ms / 1e3 / statistics.median(took_s)))


def _matrix() -> NDArray[np.float32]:
    # orthogonal, so that no product of many grows or fades
    random = np.random.default_rng(0).standard_normal((SIDE, SIDE))
    matrix: NDArray[np.float32] = np.linalg.qr(random)[0].astype(np.float32)
    return matrix


def _multiply(matrix: NDArray[np.float32], times: int) -> None:
    product = matrix
    for _ in range(times):
        product = product @ matrix
