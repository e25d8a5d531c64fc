"""Thermal zones and cooling devices of the kernel: how hot, how hot it may be, what slows down.

Source: Documentation/driver-api/thermal/sysfs-api.rst of Linux.
"""

from __future__ import annotations

import re
from pathlib import Path

from devices.machine import read_text
from devices.telemetry.reading import Reader, ReaderError, Reading

EVERY_S = 1.0
"""Heat moves in seconds, and a board may have thirty of these files."""

SLOWS = re.compile(r"cpufreq|devfreq|throttle|powerclamp|^Processor$|balanced|cpu.?idle", re.I)
"""Types of cooling devices that cool by doing less.

A fan cools too, and a display counts as a cooling device whose state is its brightness, so types
are named that count, not types that do not. ``gpu-throttle-alert`` is Jetson's own word for it
(github.com/rbonghi/jetson_stats lists them); ``-balanced`` is JetPack 4's, from memory.
"""

HOTTEST_C = 150
"""A trip point above it, or not above zero, is a placeholder of the firmware."""


class ThermalReader:
    """Reads what was found at the start: zones do not come and go."""

    name = "thermal"
    every_s = EVERY_S

    def __init__(self, folder: Path) -> None:
        self._zones = _named(folder, "thermal_zone")
        self._limits = {
            name: limit
            for name, zone in self._zones.items()
            if (limit := limit_c(zone)) is not None
        }
        self._cooling = {
            name: device
            for name, device in _named(folder, "cooling_device").items()
            if SLOWS.search(name)
        }

    @property
    def works(self) -> bool:
        """Is there anything to read?"""
        return bool(self._zones or self._cooling)

    def read(self) -> Reading:
        """Temperatures, and which cooling devices are at work.

        Raises:
            ReaderError: No zone and no cooling device tells anything any more.
        """
        temperatures = {
            # an unreadable zone belongs to a unit that is switched off at the moment
            name: millidegrees / 1000
            for name, zone in self._zones.items()
            if (millidegrees := _number(zone / "temp")) is not None
        }
        states = {name: _number(device / "cur_state") for name, device in self._cooling.items()}
        if not temperatures and not any(state is not None for state in states.values()):
            raise ReaderError("no thermal zone can be read any more")
        return Reading(
            temperatures_c=temperatures,
            limits_c=self._limits,
            throttled=tuple(
                f"cooling device {name}" for name, state in states.items() if state and state > 0
            ),
        )

    def close(self) -> None:
        """Nothing is open."""


def thermal_reader(root: Path) -> Reader | None:
    """A reader, where the kernel has zones or cooling devices."""
    reader = ThermalReader(root / "sys/class/thermal")
    return reader if reader.works else None


def limit_c(zone: Path) -> float | None:
    """Temperature from which the kernel slows things down to keep a zone at it, or None.

    That is a trip point of type ``passive``. Of several it is the highest: the lower ones only
    start the regulation (the power allocator of RK3588 has one at 75 and one at 85 degrees).
    """
    trips = [
        temperature / 1000
        for number in range(12)
        if read_text(zone / f"trip_point_{number}_type").strip() == "passive"
        and (temperature := _number(zone / f"trip_point_{number}_temp")) is not None
    ]
    return max((trip for trip in trips if 0 < trip < HOTTEST_C), default=None)


def _named(folder: Path, prefix: str) -> dict[str, Path]:
    """Folders by their type; where a type comes twice, the later ones carry their number."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{prefix}*"), key=_place):
        kind = read_text(path / "type").strip()
        if kind:
            found[kind if kind not in found else f"{kind} {_place(path)}"] = path
    return found


def _place(path: Path) -> int:
    digits = re.search(r"\d+$", path.name)
    return int(digits[0]) if digits else 0


def _number(path: Path) -> int | None:
    try:
        return int(read_text(path))
    except ValueError:
        return None
