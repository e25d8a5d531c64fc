"""Is the engine as fast as its profile promises: measured at start, and watched while it serves."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from devices.check import noise
from devices.machine import this_machine
from devices.percentiles import percentile, smallest_count
from devices.profile import DeviceProfile, Frozen, LatencyBudget
from devices.session import Session

Policy = Literal["off", "warn", "refuse"]
"""What comes of an engine that is over its budget at start: it is not measured, it serves and the
log says so, or it does not serve."""

Clock = Callable[[], float]
Alone = Callable[[], AbstractContextManager[object]]

RUNS = smallest_count(90)
"""Images that the check at start times: the fewest that support a p90."""
LEAST_RUNS = smallest_count(50)
MAX_SECONDS = 2.0
"""After so long a slow engine is judged by fewer: by its p50 alone, from `LEAST_RUNS` on."""

RECENT = 100
"""Images over which the engine is watched while it serves."""
EVERY = 10
"""So many images pass between two looks."""
RECOVERED = 0.9
"""An engine that was over its budget is within it again at this share of it, not at the first
image that happens to be: a state that flaps tells nobody anything."""
STALE_S = 60.0
"""Samples older than this say nothing. Where a degraded server is sent no more images, this is how
it gets a new chance."""


class StartCheck(Frozen):
    """What the engine took at start, images of the profile's size one after the other.

    Attributes:
        runs: Images timed.
        p50_ms: Median.
        p90_ms: Null where the engine is too slow for enough images within two seconds.
        budget: What the device profile promises in this power mode.
        power_mode: Setting of the board's power switch; null where it has none.
        within_budget: The verdict.
        detail: The verdict in words.
    """

    runs: int
    p50_ms: float
    p90_ms: float | None
    budget: LatencyBudget
    power_mode: str | None
    within_budget: bool
    detail: str


def check_at_start(
    session: Session,
    profile: DeviceProfile,
    clock: Clock = time.perf_counter,
    *,
    alone: Alone = nullcontext,
) -> StartCheck:
    """Time a warm engine, and hold it against the budget of the power mode that the board is in.

    Judged is what was measured, not its 99 % bound: with 44 images that is the slowest of them, and
    a server that starts beside other programs would fall over the first hiccup. `pocketgan check`
    takes the time to prove a promise.

    Args:
        session: A warm engine.
        profile: What it was made for.
        clock: Seconds, rising.
        alone: Entered for each image, before the clock runs: keeps other engines still, one image
            at a time, so that whoever waits for them hardly notices.
    """
    mode, budget = budget_here(profile)
    images = noise(profile)
    samples_ms: list[float] = []
    begin = now = clock()
    while len(samples_ms) < RUNS and (len(samples_ms) < LEAST_RUNS or now - begin < MAX_SECONDS):
        with alone():
            started = clock()
            session.run(images)
            now = clock()
        samples_ms.append((now - started) * 1e3)
    p50, p90 = percentile(samples_ms, 50), percentile(samples_ms, 90)
    assert p50 is not None  # there are at least LEAST_RUNS
    p90_ms = None if p90 is None else p90.value_ms
    over = over_budget(p50.value_ms, p90_ms, budget)
    return StartCheck(
        runs=len(samples_ms),
        p50_ms=p50.value_ms,
        p90_ms=p90_ms,
        budget=budget,
        power_mode=mode,
        within_budget=not over,
        detail=over or f"within the budget over {len(samples_ms)} images",
    )


def budget_here(profile: DeviceProfile) -> tuple[str | None, LatencyBudget]:
    """The power mode that this board is in, where it has such modes, and the budget in it."""
    mode = this_machine().power_mode if profile.power_modes else None
    return mode, profile.budget_in(mode)


def over_budget(p50_ms: float, p90_ms: float | None, budget: LatencyBudget) -> str:
    """In what an engine is over its budget, in a few words; empty where in nothing."""
    measured = {"p50": (p50_ms, budget.p50_ms), "p90": (p90_ms, budget.p90_ms)}
    return "; ".join(
        f"{name} is {got_ms:.2f} ms, the budget is {limit_ms:g} ms"
        for name, (got_ms, limit_ms) in measured.items()
        if got_ms is not None and got_ms > limit_ms
    )


class BudgetWatch:
    """Whether the engine keeps its budget while it serves. Safe to use from several threads.

    Only images of the profile's size count, one by one: the budget is for nothing else. It is
    degraded when p50 or p90 of the latest `RECENT` of them are over the budget, and well again when
    both are under `RECOVERED` of it; fewer than `RUNS` change nothing, so one slow image does not.

    Args:
        image_size: Height and width that the budget is for, in pixels.
        budget: As the profile promises in this power mode.
        clock: Seconds, rising.
    """

    def __init__(
        self, image_size: int, budget: LatencyBudget, clock: Clock = time.monotonic
    ) -> None:
        self.budget = budget
        self._shape = (1, 3, image_size, image_size)
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._since_look = 0
        self._degraded = ""

    def ran(self, shape: tuple[int, ...], engine_ms: float) -> None:
        """The engine took so long for images of a shape, (N, C, H, W)."""
        if shape != self._shape:
            return
        with self._lock:
            self._recent.append((self._clock(), engine_ms))
            self._since_look += 1
            if self._since_look >= EVERY:
                self._look()

    @property
    def degraded(self) -> str:
        """In what the engine is over its budget; empty where it is not, or where nothing is new."""
        with self._lock:
            self._look()
            return self._degraded

    def _look(self) -> None:
        self._since_look = 0
        oldest = self._clock() - STALE_S
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
        if not self._recent:
            self._degraded = ""
        samples_ms = [engine_ms for _, engine_ms in self._recent]
        p50, p90 = percentile(samples_ms, 50), percentile(samples_ms, 90)
        if p50 is None or p90 is None:  # fewer than RUNS of them
            return
        share = RECOVERED if self._degraded else 1.0
        limits = LatencyBudget(
            p50_ms=self.budget.p50_ms * share,
            p90_ms=self.budget.p90_ms * share,
            p99_ms=self.budget.p99_ms,
        )
        if not over_budget(p50.value_ms, p90.value_ms, limits):
            self._degraded = ""
            return
        now = over_budget(p50.value_ms, p90.value_ms, self.budget)
        self._degraded = now or f"only just within its budget again (p90 {p90.value_ms:.2f} ms)"
