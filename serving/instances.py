"""Several sessions of one engine, lent out one at a time; and what batches gain, measured."""

from __future__ import annotations

import queue
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from devices.session import Images, Session

BATCHES = (2, 4, 8)
"""Batches that are tried, the smallest first."""

WORTH = 1.1
"""A batch is used if it makes at least so many times the images per second: its first image waits
for its last, which must be worth it."""

ROUNDS = 7


class Instances:
    """Sessions that are lent to one caller each. Safe to use from several threads.

    Args:
        sessions: At least one, all of the same engine.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._count = len(sessions)
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        for session in sessions:
            self._free.put(session)

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def turn(self) -> Iterator[Session]:
        """Wait for a free session and keep it for a while."""
        session = self._free.get()
        try:
            yield session
        finally:
            self._free.put(session)


def best_batch(
    session: Session, size: int, *, most: int, clock: Callable[[], float] = time.perf_counter
) -> int:
    """How many images of one shape are best run together: measured, here and now.

    A batch counts only if its images are bit for bit those that the engine makes one by one, so
    that nobody's image depends on who else asked.

    Args:
        session: A warm engine.
        size: Height and width to measure at, in pixels.
        most: Largest batch allowed.
        clock: Seconds, rising.

    Returns:
        The best of 1 and `BATCHES`; 1 for an engine that takes no batches, that makes other images
        of them, or that gains less than a tenth.
    """
    best, best_gain = 1, WORTH
    noise = np.random.default_rng(0)
    for batch in (n for n in BATCHES if n <= most):
        images = noise.uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)
        if not _same_in_a_batch(session, images):
            break
        gain = _gain(session, images, clock)
        if gain < 1.0:  # larger ones only lose more
            break
        if gain >= best_gain:
            best, best_gain = batch, gain
    return best


def _same_in_a_batch(session: Session, images: Images) -> bool:
    try:
        together = session.run(images)
        alone = np.concatenate([session.run(images[i : i + 1]) for i in range(len(images))])
    except Exception:  # each runtime raises its own kinds for a batch it was not built for
        return False
    return np.array_equal(together, alone)


def _gain(session: Session, images: Images, clock: Callable[[], float]) -> float:
    """Images per second together over one by one: medians of interleaved rounds."""
    alone_s, together_s = [], []
    for _ in range(ROUNDS):
        started = clock()
        session.run(images[:1])
        turned = clock()
        session.run(images)
        alone_s.append(turned - started)
        together_s.append(clock() - turned)
    return len(images) * statistics.median(alone_s) / max(statistics.median(together_s), 1e-9)
