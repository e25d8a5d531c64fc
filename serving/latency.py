"""What the server has seen of its own speed: percentiles over recent requests."""

from __future__ import annotations

import threading
from collections import deque

from devices.percentiles import percentile
from devices.profile import Frozen, LatencyBudget
from serving.budget import StartCheck

WINDOW = 10_000


class Percentiles(Frozen):
    """Percentiles of one series, in milliseconds; null where too few samples support them.

    p50 wants 7 samples, p90 44 and p99 459, as everywhere (`devices.percentiles`).

    Attributes:
        count: Samples since start.
        window: How many of the latest the percentiles are over.
    """

    count: int
    window: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class LatencyView(Frozen):
    """The answer of ``GET /v1/latency``.

    Attributes:
        engine: Time of the engine alone, images of every size.
        engine_at_image_size: The same, only for images of the size that the budget is for:
            compare this with the budget.
        request: From a complete body to an encoded answer, waiting included.
        image_size: Height and width that the budget is for, in pixels.
        budget: What the bundle's device profile promises for the engine.
        start: How fast the engine was when it was loaded, and whether that is within the budget;
            null where the settings leave the check out.
    """

    engine: Percentiles
    engine_at_image_size: Percentiles
    request: Percentiles
    image_size: int
    budget: LatencyBudget
    start: StartCheck | None


class Series:
    """The latest samples of one time, in milliseconds. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._latest_ms: deque[float] = deque(maxlen=WINDOW)

    def add(self, sample_ms: float) -> None:
        """Remember one sample."""
        with self._lock:
            self._count += 1
            self._latest_ms.append(sample_ms)

    def percentiles(self) -> Percentiles:
        """Percentiles of the latest samples."""
        with self._lock:
            count, samples_ms = self._count, list(self._latest_ms)
        p50, p90, p99 = (percentile(samples_ms, percent) for percent in (50, 90, 99))
        return Percentiles(
            count=count,
            window=len(samples_ms),
            p50_ms=p50.value_ms if p50 else None,
            p90_ms=p90.value_ms if p90 else None,
            p99_ms=p99.value_ms if p99 else None,
        )
