"""One look at a machine, and what a source of such looks can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")

BUSY = 0.8
"""A unit is under load from here; the rest of an interval goes to what stands between two images.
Below it a clock may fall because there is little to do."""


class ReaderError(Exception):
    """A source that worked before no longer tells anything; it is dropped, nothing else ends."""


@dataclass(frozen=True)
class Reading:
    """What one source said at one moment; what it does not tell is empty or None.

    Attributes:
        clocks_mhz: Clock frequencies by name (``cpu``, ``gpu``), in MHz. Where several cores share
            a name it is the fastest of those that are busy.
        busy: How busy the unit of a clock was, 0 to 1, by the same name; a clock without it is
            recorded and not judged, because clocks fall by themselves when there is nothing to do.
        temperatures_c: Temperatures by name of the sensor, in degrees Celsius.
        limits_c: Temperature at which the board slows itself down, by name of the sensor.
        power_mw: Power by name of the rail, in milliwatts.
        throttled: Throttle flags that are up now, in words.
        events: Throttle events counted since the machine started, by name; a flag that only tells
            that something has happened counts 0 or 1. A rise says that it happened meanwhile.
        settings: What somebody chose (``governor``, ``power mode``), in words.
        other_load: Cores kept busy by others than this process and its children since the last
            look.
        energy_mj: Energy by name of the meter since the source was first read, in millijoules.
        memory_mib: ``used``, ``total`` and ``swap`` memory, in MiB.
    """

    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    limits_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()
    events: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    other_load: float | None = None
    energy_mj: Mapping[str, float] = field(default_factory=dict)
    memory_mib: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What all sources said at one moment.

    Attributes:
        at_s: When, in seconds from any start, never falling.
        reading: What they said; where two tell the same name, the first of them.
    """

    at_s: float
    reading: Reading


class Reader(Protocol):
    """A source of readings.

    Attributes:
        name: What people call the source (``tegrastats``).
        every_s: How long to leave it alone after a read, in seconds: some sources start a process.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def every_s(self) -> float: ...  # noqa: D102

    def read(self) -> Reading:
        """Look once; at once, not waiting for news.

        Raises:
            ReaderError: The source is gone.
        """
        ...

    def close(self) -> None:
        """End what the source started; may be called twice."""
        ...


def fastest_busy(cores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """One clock and one load for cores that share a name.

    Args:
        cores: MHz and load (0 to 1) of each, one at least.

    Returns:
        MHz of the fastest core under load, where there is one, and the highest load: idle cores
        clock down, and a board that slows itself down slows all of them.
    """
    working = [mhz for mhz, load in cores if load >= BUSY]
    return max(working or [mhz for mhz, _ in cores]), max(load for _, load in cores)


def merged(readings: list[Reading]) -> Reading:
    """One reading of several; where two tell the same name, the first of them counts."""
    loads = [reading.other_load for reading in readings if reading.other_load is not None]
    backwards = readings[::-1]  # later updates win, so the first source comes last
    return Reading(
        clocks_mhz=_union([reading.clocks_mhz for reading in backwards]),
        busy=_union([reading.busy for reading in backwards]),
        temperatures_c=_union([reading.temperatures_c for reading in backwards]),
        limits_c=_union([reading.limits_c for reading in backwards]),
        power_mw=_union([reading.power_mw for reading in backwards]),
        throttled=tuple(dict.fromkeys(flag for reading in readings for flag in reading.throttled)),
        events=_union([reading.events for reading in backwards]),
        settings=_union([reading.settings for reading in backwards]),
        other_load=loads[0] if loads else None,
        energy_mj=_union([reading.energy_mj for reading in backwards]),
        memory_mib=_union([reading.memory_mib for reading in backwards]),
    )


def _union(parts: list[Mapping[str, T]]) -> dict[str, T]:
    return {name: value for part in parts for name, value in part.items()}
