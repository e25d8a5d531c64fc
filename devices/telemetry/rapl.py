"""Energy of an x86 processor: RAPL's counters, which run over.

Source: Documentation/power/powercap/powercap.rst of Linux. Most systems let only root read them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from devices.machine import read_text
from devices.telemetry.reading import Reader, ReaderError, Reading

EVERY_S = 0.5


class _Meter:
    """One counter, counted on over its end."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int(read_text(folder / "max_energy_range_uj") or 0)
        self._last = self._look()
        self.total_mj = 0.0

    def step(self) -> float:
        """Millijoules since the last step."""
        now = self._look()
        used = now - self._last
        if used < 0:
            used += self._range  # the counter starts again at 0 after its highest value
        self._last = now
        self.total_mj += used / 1000
        return used / 1000

    def _look(self) -> int:
        try:
            return int(read_text(self._file))
        except ValueError:
            raise ReaderError(f"{self._file} can no longer be read") from None


class RaplReader:
    """Adds up the packages."""

    name = "rapl"
    every_s = EVERY_S

    def __init__(
        self, packages: dict[str, Path], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._meters = {name: _Meter(folder) for name, folder in packages.items()}
        self._at = clock()

    def read(self) -> Reading:
        """Energy since the first look, and the mean power since the last.

        Raises:
            ReaderError: A counter can no longer be read.
        """
        now = self._clock()
        seconds, self._at = now - self._at, now
        used = {name: meter.step() for name, meter in self._meters.items()}
        return Reading(
            power_mw={name: mj / seconds for name, mj in used.items()} if seconds > 0 else {},
            energy_mj={name: meter.total_mj for name, meter in self._meters.items()},
        )

    def close(self) -> None:
        """Nothing is open."""


def rapl_reader(root: Path) -> Reader | None:
    """A reader, where there are packages whose counters this user may read.

    ``psys`` and the parts of a package are left out: they count the same energy again.
    """
    packages = {}
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(folder / "name").strip()
        if name.startswith("package") and read_text(folder / "energy_uj").strip().isdigit():
            packages[name] = folder
    return RaplReader(packages) if packages else None
