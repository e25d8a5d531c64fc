"""Over-current and under-voltage events of Jetson: the board slows down, and only a counter tells.

JetPack 5 and newer count them in ``/sys/class/hwmon/hwmon*/oc1_event_cnt`` and on. A board stays
slow after one: forums.developer.nvidia.com/t/361188 shows a Thor at a quarter of the clock that
cpufreq reports.
"""

from __future__ import annotations

import re
from pathlib import Path

from devices.machine import read_text
from devices.telemetry.reading import Reader, ReaderError, Reading

EVERY_S = 1.0


class OvercurrentReader:
    """Reads the counters that were found at the start."""

    name = "over-current"
    every_s = EVERY_S

    def __init__(self, counters: dict[str, Path]) -> None:
        self._counters = counters

    def read(self) -> Reading:
        """How often each alarm fired since the board started.

        Raises:
            ReaderError: A counter can no longer be read.
        """
        events = {}
        for name, path in self._counters.items():
            text = read_text(path).strip()
            if not text.isdigit():
                raise ReaderError(f"{path} says {text!r}, not a count")
            events[name] = int(text)
        return Reading(events=events)

    def close(self) -> None:
        """Nothing is open."""


def overcurrent_reader(root: Path) -> Reader | None:
    """A reader, where the board counts such events."""
    counters = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        number = re.match(r"oc(\d+)", path.name)
        if number and read_text(path).strip().isdigit():
            counters[f"over-current alarm {number[1]}"] = path
    return OvercurrentReader(counters) if counters else None
