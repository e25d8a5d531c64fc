"""What an engine's every run is told to: the stopwatch, and who judges a new engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from devices.session import Images, Session
from serving.budget import BudgetWatch

FAILED_SHARE = 0.5
"""A new engine that fails on more than this share of its first images is taken out again."""


class WatchedSession:
    """A session whose every run is told to whoever watches the engine.

    Args:
        session: The engine.
        watch: Told how long images took.
        told: Called after each run with whether it gave images.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        session: Session,
        watch: BudgetWatch,
        told: Callable[[bool], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._session = session
        self._watch = watch
        self._told = told
        self._clock = clock

    def run(self, images: Images) -> Images:
        """Translate a batch."""
        started = self._clock()
        try:
            translated = self._session.run(images)
        except Exception:
            self._told(False)
            raise
        self._watch.ran(images.shape, (self._clock() - started) * 1e3)
        # a sample: the translator looks at every value, this is about engines that make none
        self._told(bool(np.isfinite(translated[..., ::8, ::8]).all()))
        return translated

    def trim(self) -> None:
        """Give back memory that can be taken again, where the runtime knows how."""
        trim = getattr(self._session, "trim", None)
        if trim is not None:
            trim()


class Trial:
    """The first images of a model that has come into service. Safe to use from several threads.

    Args:
        images: How many of them count; 0 for a model that has nothing behind it.
        failed: Called once, as soon as more than `FAILED_SHARE` of them are sure to be failures.
    """

    def __init__(self, images: int, failed: Callable[[Trial], None]) -> None:
        self._lock = threading.Lock()
        self._left = images
        self._allowed = FAILED_SHARE * images
        self._failures = 0
        self._failed = failed

    def told(self, fine: bool) -> None:
        """The engine ran, and gave images or did not."""
        with self._lock:
            if not self._left:
                return
            self._left -= 1
            self._failures += not fine
            over = self._failures > self._allowed
            if over:
                self._left = 0
        if over:
            self._failed(self)
