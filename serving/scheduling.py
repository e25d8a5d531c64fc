"""Which image is next: a bounded queue, fair between clients, that keeps deadlines."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from serving.lines import Lines, Load, Ticket, Work
from serving.observer import Observer, Refusal, Silent

FORGET = 0.9
"""What the pace keeps of its past with every image: the latest ten or so count."""


HANDOVER_S = 0.1
"""A free worker has an image well before that; one in which none has it is no free worker."""


class BusyError(RuntimeError):
    """There is no room for one more; the client should come back.

    Attributes:
        retry_after_s: When to come back, in whole seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(RuntimeError):
    """An image's turn did not come in time for its answer."""


class Scheduler(Generic[Work]):
    """The queue before the workers. Safe to use from several threads.

    Clients take turns, one image each; the images of one client keep their order.

    Args:
        bounds: How much may wait. Beside ``images``, one for every idle worker may. An image larger
            than all of a bound counts as all of it: it is taken when nothing else waits.
        workers: Threads that call `take`.
        observer: Told of what comes and of what is sent away.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        bounds: Load,
        *,
        workers: int,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bounds = bounds
        self._workers = workers
        self._observer = observer or Silent()
        self._clock = clock
        self._lines: Lines[Work] = Lines()
        self._busy = 0
        self._busy_pixels = 0
        self._closed = False
        self._work_s = 0.0
        self._work_pixels = 0.0
        lock = threading.Lock()
        self._lock = lock
        self._work = threading.Condition(lock)
        self._idle = threading.Condition(lock)

    @property
    def waiting(self) -> Load:
        """How much waits now."""
        with self._lock:
            return replace(self._lines.load)

    @property
    def busy(self) -> int:
        """Workers that are at work."""
        return self._busy

    def submit(self, ticket: Ticket[Work]) -> None:
        """Let an image wait for its turn.

        Where there is no room, another's place may be given to it: see `Lines.displaced_by`.

        Raises:
            BusyError: There is no room, or none before its deadline; or the server is closing.
        """
        ticket.pixels = min(max(ticket.pixels, 1), self._bounds.pixels)
        ticket.size_bytes = min(ticket.size_bytes, self._bounds.size_bytes)
        with self._lock:
            ticket.queued = self._clock()
            ticket.start_by = self._start_by(ticket)
            reason = self._reason_against(ticket)
            displaced = None if reason else self._lines.displaced_by(ticket, self._room())
            if displaced is not None:
                for other in displaced:
                    self._lines.remove(other)
                self._lines.add(ticket)
                self._work.notify()
        if displaced is None:
            reason = reason or "full"
            self._observer.refused(reason)
            raise self._refusal(reason, ticket)
        self._observer.accepted(ticket.pixels)
        for other in displaced:
            self._send_away(other, "full")

    def take(self, most: Callable[[Ticket[Work]], int] = lambda _: 1) -> list[Ticket[Work]]:
        """Wait for the next image; the caller is busy until it says `done`.

        Args:
            most: How many images of the shape of this one may be taken together. Only what is
                next in its client's line is: nobody's order changes.

        Returns:
            One image or more of one shape; none when the queue is closed and empty.
        """
        while True:
            with self._lock:
                while not self._lines.load.images and not self._closed:
                    self._work.wait()
                now = self._clock()
                late = [ticket for ticket in self._lines if ticket.start_by <= now]
                for ticket in late:
                    self._lines.remove(ticket)
                taken = self._lines.next(most)
                if taken:
                    self._busy += 1
                    self._busy_pixels += sum(ticket.pixels for ticket in taken)
                ended = self._closed and not taken
                self._idle.notify_all()
            for ticket in late:
                self._send_away(ticket, "deadline")
            if taken or ended:
                return taken

    def done(self, pixels: int, seconds: float) -> None:
        """A worker is free again; the pace of its work is remembered.

        Args:
            pixels: Pixels of the images that `take` gave.
            seconds: What they took; 0 where nothing can be learned of it.
        """
        with self._lock:
            self._busy -= 1
            self._busy_pixels -= pixels
            if seconds > 0:
                self._work_s = self._work_s * FORGET + seconds
                self._work_pixels = self._work_pixels * FORGET + pixels
            self._idle.notify_all()

    def withdraw(self, ticket: Ticket[Work]) -> bool:
        """Forget an image; false where a worker has it already."""
        with self._lock:
            if ticket not in self._lines:
                return False
            self._lines.remove(ticket)
            self._idle.notify_all()
            return True

    def expire(self, ticket: Ticket[Work]) -> None:
        """Send an image away whose answer would be late, if it still waits."""
        if self.withdraw(ticket):
            self._send_away(ticket, "deadline")

    def close(self) -> None:
        """Take no more; what waits is still worked on."""
        with self._lock:
            self._closed = True
            self._work.notify_all()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until nothing waits and no worker is busy; false where that takes too long."""
        with self._lock:
            return self._idle.wait_for(
                lambda: not self._lines.load.images and not self._busy, timeout_s
            )

    def clear(self) -> None:
        """Send away all that waits."""
        with self._lock:
            tickets = list(self._lines)
            for ticket in tickets:
                self._lines.remove(ticket)
            self._idle.notify_all()
        for ticket in tickets:
            self._send_away(ticket, "closing")

    def expected_wait_s(self) -> float:
        """About how long it takes to begin a new image, from the pace so far; 0 before the first.

        Rather too long than too short: what is being translated counts whole. An image that is
        sent away at once can be sent elsewhere; one that waited in vain has cost its client time.
        """
        busy = self._busy_pixels if self._busy >= self._workers else 0
        return self._takes_s(self._lines.load.pixels + busy) / self._workers

    def _takes_s(self, pixels: int) -> float:
        """About how long a worker takes for so much, from the pace so far; 0 before the first."""
        return pixels * self._work_s / self._work_pixels if self._work_pixels else 0.0

    def _waits(self) -> bool:
        """Whether a new image would have to wait for a worker."""
        return self._lines.load.images > 0 or self._busy >= self._workers

    def _start_by(self, ticket: Ticket[Work]) -> float:
        """When an image must be begun so that its answer is there at its deadline."""
        start_by = ticket.deadline - self._takes_s(ticket.pixels)
        # where a worker is free it is tried whatever the pace was: the last may have been slow ones
        return start_by if self._waits() else max(start_by, ticket.queued + HANDOVER_S)

    def _reason_against(self, ticket: Ticket[Work]) -> Refusal | None:
        if self._closed:
            return "closing"
        too_late = self._waits() and self.expected_wait_s() > ticket.start_by - ticket.queued
        return "deadline" if too_late else None

    def _room(self) -> Load:
        idle = max(0, self._workers - self._busy)
        return replace(self._bounds, images=self._bounds.images + idle)

    def _send_away(self, ticket: Ticket[Work], reason: Refusal) -> None:
        """Tell whoever waits for an image that was accepted and lost its place."""
        self._observer.refused(reason)
        if reason == "deadline":
            ticket.sent_away(
                DeadlineError(
                    f"the engine was not free in time for an answer within "
                    f"{ticket.deadline - ticket.queued:.3g} s; try again later, or allow more "
                    "with X-Timeout-Ms"
                )
            )
        else:
            ticket.sent_away(self._refusal(reason, ticket))

    def _refusal(self, reason: Refusal, ticket: Ticket[Work]) -> BusyError:
        if reason == "closing":
            return BusyError("the server is shutting down; try again soon", retry_after_s=1)
        expected_s = self.expected_wait_s()
        retry_after_s = max(1, math.ceil(expected_s))
        if reason == "deadline":
            return BusyError(
                f"its turn comes in about {expected_s:.2g} s, too late for an answer within "
                f"{max(ticket.deadline - ticket.queued, 0):.2g} s; try again later, or allow more "
                "with X-Timeout-Ms",
                retry_after_s=retry_after_s,
            )
        load = self._lines.load
        return BusyError(
            f"too many images wait already ({load.images}, of {load.pixels} pixels together); "
            "try again later",
            retry_after_s=retry_after_s,
        )
