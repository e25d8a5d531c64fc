"""Clocks and governors of the CPU from the kernel, and how often an x86 core throttled itself.

Sources: Documentation/admin-guide/pm/cpufreq.rst of Linux; ``thermal_throttle`` is of
arch/x86/kernel/cpu/mce/therm_throt.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from devices.machine import read_text
from devices.telemetry.reading import Reader, ReaderError, Reading, fastest_busy

CORES = 8
"""At most so many cores are looked at: reading a clock may wake a core, and all of a server's would
cost more than the whole look may. One watches the first of those this process may run on."""

THROTTLE_COUNTS = {
    "core_throttle_count": "core too hot",
    "package_throttle_count": "package too hot",
}


class CpufreqReader:
    """Reads the files of some cores."""

    name = "cpufreq"
    every_s = 0.0

    def __init__(self, root: Path, cores: Iterable[int]) -> None:
        self._stat = root / "proc/stat"
        folder = root / "sys/devices/system/cpu"
        chosen = sorted(cores)[:CORES]
        self._clocks = {
            core: path
            for core in chosen
            if _number(path := folder / f"cpu{core}/cpufreq/scaling_cur_freq") is not None
        }
        self._names = _names(
            {
                core: _number(path.with_name("cpuinfo_max_freq"))
                for core, path in self._clocks.items()
            }
        )
        self._counts = [
            (name, path)
            for core in chosen
            for file, name in THROTTLE_COUNTS.items()
            if _number(path := folder / f"cpu{core}/thermal_throttle/{file}") is not None
        ]
        self._before = core_times(read_text(self._stat))

    @property
    def works(self) -> bool:
        """Is there anything to read?"""
        return bool(self._clocks or self._counts)

    def read(self) -> Reading:
        """Clocks of the cores under load, governors, throttle counts.

        Raises:
            ReaderError: A file that was there is gone.
        """
        after = core_times(read_text(self._stat))
        loads = core_loads(self._before, after)
        self._before = after
        groups: dict[str, list[tuple[float, float]]] = {}
        for core, path in self._clocks.items():
            khz = _number(path)
            if khz is None:
                raise ReaderError(f"{path} can no longer be read")
            groups.setdefault(self._names[core], []).append((khz / 1000, loads.get(core, 0.0)))
        together = {name: fastest_busy(cores) for name, cores in groups.items()}
        events: dict[str, int] = {}
        for name, path in self._counts:
            # a package tells its count at each of its cores; cores have their own
            count = _number(path) or 0
            events[name] = max(events.get(name, 0), count)
        governors = dict.fromkeys(
            read_text(path.with_name("scaling_governor")).strip() for path in self._clocks.values()
        )
        words = " + ".join(governor for governor in governors if governor)
        return Reading(
            clocks_mhz={name: mhz for name, (mhz, _) in together.items()},
            busy={name: load for name, (_, load) in together.items()},
            events=events,
            settings={"governor": words} if words else {},
        )

    def close(self) -> None:
        """Nothing is open."""


def cpufreq_reader(root: Path) -> Reader | None:
    """A reader, where the kernel tells clocks or throttle counts; a virtual machine has neither."""
    reader = CpufreqReader(root, allowed_cores())
    return reader if reader.works else None


def allowed_cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_times(stat: str) -> dict[int, tuple[int, int]]:
    """Busy and all ticks of each core, from ``/proc/stat``."""
    times = {}
    for core, text in re.findall(r"^cpu(\d+) ([\d ]+)$", stat, re.MULTILINE):
        # user nice system idle iowait irq softirq steal; what follows is within the first two
        ticks = [int(part) for part in text.split()[:8]]
        if len(ticks) == 8:
            times[int(core)] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return times


def core_loads(
    before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]
) -> dict[int, float]:
    """How busy each core was between two looks, 0 to 1; none where no time passed."""
    loads = {}
    for core, (busy, total) in after.items():
        busy_before, total_before = before.get(core, (busy, total))
        if total > total_before:
            loads[core] = min(1.0, max(0.0, (busy - busy_before) / (total - total_before)))
    return loads


def _names(highest_khz: dict[int, int | None]) -> dict[int, str]:
    """``cpu``, or where cores are of several kinds ``cpu 2400 MHz`` and ``cpu 1800 MHz``."""
    kinds = set(highest_khz.values())
    return {
        core: "cpu" if len(kinds) == 1 or khz is None else f"cpu {khz / 1000:.0f} MHz"
        for core, khz in highest_khz.items()
    }


def _number(path: Path) -> int | None:
    try:
        return int(read_text(path))
    except ValueError:
        return None
