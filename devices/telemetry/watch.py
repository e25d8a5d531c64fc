"""Watch a machine from beside while something is measured on it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from devices.machine import Machine, this_machine
from devices.telemetry.conditions import Conditions
from devices.telemetry.reading import Look, Reader, Reading, merged
from devices.telemetry.summary import summed_up

log = logging.getLogger(__name__)

JOIN_S = 15.0
"""A look in progress may be waiting for a board's tool, which is given ten seconds."""


class Sampler:
    """Reads several sources together, each as often as it may be, and drops those that fail."""

    def __init__(self, readers: Sequence[Reader], clock: Callable[[], float]) -> None:
        self._working = list(readers)
        self._clock = clock
        self._due = {id(reader): float("-inf") for reader in readers}
        self._labels = {id(reader): reader.name for reader in readers}
        self.looks: list[Look] = []

    @property
    def labels(self) -> tuple[str, ...]:
        """What was looked at, in words, in the order of the sources."""
        return tuple(self._labels.values())

    def look(self) -> None:
        """Read every source that is due; none of them can make it raise."""
        now = self._clock()
        readings = []
        for reader in list(self._working):
            if now < self._due[id(reader)]:
                continue
            self._due[id(reader)] = now + reader.every_s
            try:
                reading = reader.read()
            except Exception as error:
                # whatever it is: a source may be lost, the measurement beside it may not
                log.info("%s is dropped: %s", reader.name, error)
                self._labels[id(reader)] = f"{reader.name}, until it failed: {error}"
                self._working.remove(reader)
                _close(reader)
                continue
            if reading.settings:
                words = ", ".join(reading.settings.values())
                self._labels[id(reader)] = f"{reader.name}: {words}"
            readings.append(reading)
        self.looks.append(Look(now, merged(readings)))

    def close(self) -> None:
        """Close every source."""
        for reader in self._working:
            _close(reader)


class Watch:
    """Looks at a machine again and again in a thread of its own, as long as it is entered.

    ``with Watch(readers_of_this_machine()) as watch: ...`` and then ``watch.conditions()``. It
    closes its readers at the end, so a watch is entered once.

    Args:
        readers: Sources to read.
        every_s: Time between two looks, in seconds.
        look_at_machine: Says what the machine is, before and after.
        clock: Seconds from any start, never falling.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        every_s: float = 0.25,
        *,
        look_at_machine: Callable[[], Machine] = this_machine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every_s <= 0:
            raise ValueError(f"every_s must be above 0, got {every_s}; 0.25 is usual")
        self._sampler = Sampler(readers, clock)
        self._every_s = every_s
        self._look_at_machine = look_at_machine
        self._clock = clock
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="telemetry", daemon=True)
        self._before: Machine | None = None
        self._after: Machine | None = None
        self._begin_s = self._end_s = 0.0

    def __enter__(self) -> Watch:
        self._before = self._machine()
        self._begin_s = self._clock()
        self._sampler.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join(JOIN_S)
        if not self._thread.is_alive():
            self._sampler.look()
        self._end_s = self._clock()
        self._after = self._machine()
        self._sampler.close()

    @property
    def latest(self) -> Reading:
        """The newest reading of every source; those that are asked seldom keep their last word."""
        looks = self._sampler.looks
        return merged([look.reading for look in looks[-1 : -1 - RECENT : -1]])

    def conditions(self) -> Conditions:
        """What was seen so far; after the end, all of it."""
        ended = self._ending.is_set()
        end_s = self._end_s if ended else self._clock()
        after = self._after if ended else self._machine()
        looks = list(self._sampler.looks)
        seconds = max(0.0, end_s - self._begin_s)
        return summed_up(looks, self._sampler.labels, seconds, self._before, after)

    def _go_on(self) -> None:
        while not self._ending.wait(self._every_s):
            self._sampler.look()

    def _machine(self) -> Machine | None:
        try:
            return self._look_at_machine()
        except Exception as error:  # as above: nothing here may end the measurement
            log.info("the machine cannot be looked at: %s", error)
            return None


RECENT = 48
"""Looks that hold the last word of every source: at four a second, those of twelve seconds."""


def _close(reader: Reader) -> None:
    try:
        reader.close()
    except Exception as error:  # as above
        log.info("%s cannot be closed: %s", reader.name, error)
