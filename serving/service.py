"""Between the event loop, which must never wait, and the threads that translate."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deploy.imaging import ImageTooLargeError
from serving.headers import said_size
from serving.lines import Load, Ticket
from serving.observer import Observer, Silent
from serving.rates import Rates
from serving.scheduling import Scheduler
from serving.settings import ServingSettings
from serving.translator import Outcome, Translator
from serving.work import GoneError, Job, Translation

Gone = Callable[[], Awaitable[Any]]
"""Ends when whoever asked has left; `serving.uploads.until_gone` makes one."""

GONE_AFTER_S = 0.05
"""From when on somebody looks whether a client has left. Most images are answered before, and
watching costs as much as reading a header."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Asked:
    """A job, and who is to be told what became of it."""

    job: Job
    tell: Callable[[Outcome], None]


def workers_for(instances: int, cores: int) -> int:
    """How many threads translate.

    One more than there are engine instances: the next image is decoded and the last one encoded
    while the engine works. Where there is but one core nothing can be beside anything, and two
    threads that pass it to and fro only cost.
    """
    return instances + 1 if cores > 1 else instances


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Service:
    """The queue, and the threads that work on it.

    A request changes threads twice: to a worker, which does everything, and back.

    Attributes:
        rates: How many requests a client may make.
        scheduler: The queue.

    Args:
        current: Gives the translator that is in service when an image is begun.
        settings: Limits.
        observer: Told of every image.
        workers: Threads; as many as `workers_for` says if left out.
        clock: Seconds, rising; the one that translators go by.
    """

    def __init__(
        self,
        current: Callable[[], Translator],
        settings: ServingSettings,
        *,
        observer: Observer | None = None,
        workers: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._current = current
        self._settings = settings
        self._observer = observer or Silent()
        self._clock = clock
        workers = workers or workers_for(settings.instances, cores())
        bounds = Load(settings.max_queue, settings.max_queue_pixels, settings.max_queue_bytes)
        self.rates = Rates(settings.rate_per_s, settings.rate_burst)
        self.scheduler: Scheduler[_Asked] = Scheduler(
            bounds, workers=workers, observer=self._observer, clock=clock
        )
        # daemons: an engine that hangs must not keep the process from ending
        self._threads = [
            threading.Thread(target=self._work, name=f"translate-{n}", daemon=True)
            for n in range(workers)
        ]

    def start(self) -> None:
        """Start the workers; once."""
        for thread in self._threads:
            thread.start()

    async def drain(self, timeout_s: float) -> bool:
        """Take no more, answer what was accepted, end the workers.

        Args:
            timeout_s: What still waits after that is sent away.

        Returns:
            Whether everything was answered.
        """
        self.scheduler.close()
        answered = await asyncio.to_thread(self.scheduler.wait_until_idle, timeout_s)
        self.scheduler.clear()
        return answered

    async def translate(
        self,
        job: Job,
        *,
        client: str,
        timeout_s: float | None = None,
        gone: Gone | None = None,
    ) -> Translation:
        """Have an image translated when it is its turn.

        Cancelling it, or the end of ``gone``, takes the image out of the queue; if it is being
        translated already, it is not encoded.

        Args:
            job: What to do.
            client: Whose it is; clients take turns.
            timeout_s: When the answer is to be there; as long as the settings allow if left out,
                and never longer. What is begun in time is answered, late or not.
            gone: Ends when nobody waits any more.

        Raises:
            BusyError: Too much waits already, or this image lost its place to another client.
            DeadlineError: Its turn did not come in time.
            GoneError: ``gone`` ended first.
            ImageError: The bytes are not an image that is accepted.
            TranslationError: The engine failed.
            NotReadyError: No engine is in service.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Translation] = loop.create_future()

        def tell(outcome: Outcome) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_settle, answer, outcome)

        longest_s = self._settings.wait_timeout_s
        within_s = longest_s if timeout_s is None else min(timeout_s, longest_s)
        pixels, shape = self._weigh(job)
        job.queued = self._clock()
        ticket = Ticket(
            _Asked(job, tell),
            client=client,
            pixels=pixels,
            size_bytes=len(job.data),
            deadline=job.queued + within_s,
            shape=shape,
            sent_away=tell,
        )
        self.scheduler.submit(ticket)
        patience_s = ticket.start_by - ticket.queued
        timer = loop.call_later(patience_s, self.scheduler.expire, ticket)
        watchers: list[asyncio.Future[Any]] = []

        def watch(gone: Gone) -> None:
            watchers.append(asyncio.ensure_future(gone()))
            watchers[0].add_done_callback(lambda ended: _left(ended, answer))

        later = None if gone is None else loop.call_later(GONE_AFTER_S, watch, gone)
        try:
            return await answer
        except (GoneError, asyncio.CancelledError):
            job.wanted = False
            self.scheduler.withdraw(ticket)
            self._observer.abandoned()
            raise
        finally:
            timer.cancel()
            if later is not None:
                later.cancel()
            for watcher in watchers:
                watcher.cancel()

    def _weigh(self, job: Job) -> tuple[int, tuple[int, int] | None]:
        """Pixels the engine will see, and their padded shape, as far as the header says.

        What will be refused as soon as it is opened weighs next to nothing; what does not say its
        size where it should weighs as much as the largest.
        """
        said = said_size(job.data)
        if said is None:
            return self._settings.max_pixels, None
        if 0 in said:
            return 1, None
        try:
            shape = self._current().padded(*(job.plan(*said) if job.plan else said))
        except ImageTooLargeError:
            return 1, None
        return shape[0] * shape[1], shape

    def _most_together(self, ticket: Ticket[_Asked]) -> int:
        if ticket.shape is None:
            return 1
        try:
            return self._current().most_together(ticket.shape)
        except Exception:  # whoever translates it will meet the same, and tell
            return 1

    def _observe(self, outcome: Outcome) -> None:
        if isinstance(outcome, Translation):
            self._observer.finished(outcome)
        elif not isinstance(outcome, GoneError):
            self._observer.failed(outcome)

    def _work(self) -> None:
        while tickets := self.scheduler.take(self._most_together):
            asked = {ticket.work.job: ticket.work for ticket in tickets}
            started, translated = self._clock(), False

            def tell(job: Job, outcome: Outcome, asked: dict[Job, _Asked] = asked) -> None:
                nonlocal translated
                waiting = asked.pop(job)
                translated = translated or isinstance(outcome, Translation)
                try:
                    self._observe(outcome)  # first: who reads its answer finds it counted
                finally:
                    waiting.tell(outcome)

            try:
                self._current().translate_all(list(asked), tell)
            except Exception as error:  # whatever it is, this thread must live on
                log.exception("a translation failed")
                for waiting in list(asked.values()):
                    waiting.tell(error)
            seconds = self._clock() - started if translated else 0.0
            self.scheduler.done(sum(ticket.pixels for ticket in tickets), seconds)
            # hold no image while waiting for the next
            del tickets, asked, tell


def _settle(answer: asyncio.Future[Translation], outcome: Outcome) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _left(ended: asyncio.Future[Any], answer: asyncio.Future[Translation]) -> None:
    """Nobody waits any more, unless we stopped looking."""
    if not ended.cancelled():
        ended.exception()  # whatever it was: looked at, so that nobody is warned of it
        _settle(answer, GoneError("whoever asked has left"))
