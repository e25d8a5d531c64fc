"""tegrastats of NVIDIA Jetson: one dense line a moment, whose fields differ by JetPack.

=============  ==================================================================================
JetPack 4      ``GR3D_FREQ 62%@306`` or no clock at all, ``GPU@43C``, ``POM_5V_IN 1022/1022``
JetPack 5      rails with a unit, ``VDD_IN 5299mW/5299mW``; clocks as ``@611`` or ``@[611]``
JetPack 6      ``GR3D_FREQ 0%@[305,305]`` (one per cluster), ``gpu@47.8C``, ``NVENC off``
JetPack 7      Thor: ``GR3D_FREQ @[1098,1098,1098]`` or none, ``gpu@62.9C/62.9C``, three numbers a
               rail; Orin as JetPack 6
=============  ==================================================================================

The first number of a rail is now, what follows is its mean (and highest) since the tool started.
"""

from __future__ import annotations

import re

from devices.telemetry.reading import Reading, fastest_busy
from devices.telemetry.stream import LastLine

INTERVAL_MS = 250

# A value counts only where the text behind it proves that it is whole: a line may be cut anywhere.
RAM = re.compile(r"(?<!\S)RAM (\d+)/(\d+)MB")
SWAP = re.compile(r"(?<!\S)SWAP (\d+)/\d+MB")
CORES = re.compile(r"(?<!\S)CPU \[([^\]]*)\]")
CORE = re.compile(r"(\d+)%@(\d+)")
GPU = re.compile(r"(?<!\S)GR3D_FREQ\s+(?:(\d+)%)?(?:@\[([\d,]+)\]|@(\d+)(?=\s))?")
MEMORY = re.compile(r"(?<!\S)EMC_FREQ\s+\d+%@(\d+)(?=\s)")
TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C")
RAIL = re.compile(r"(?<!\S)([A-Z]\w*)\s+(\d+)(?:mW(?=[/\s])|/\d)")

NO_RAILS = ("RAM", "SWAP", "IRAM", "NC")
"""What looks like a rail and is memory, or a sensor that is connected to nothing."""

SWITCHED_OFF_C = -200
"""A unit that is switched off reports -256 degrees."""

INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that carry all the board takes. AGX Xavier and AGX Orin have none, only parts."""


class TegrastatsReader:
    """Keeps one tegrastats running."""

    name = "tegrastats"
    every_s = 0.0

    def __init__(self, program: str = "tegrastats", interval_ms: int = INTERVAL_MS) -> None:
        self._lines = LastLine((program, "--interval", str(interval_ms)))

    def read(self) -> Reading:
        """The newest line; empty where there is none since the last read.

        Raises:
            ReaderError: tegrastats has ended.
        """
        line = self._lines.read()
        return Reading() if line is None else parse(line)

    def close(self) -> None:
        """End tegrastats."""
        self._lines.close()


def parse(line: str) -> Reading:
    """What a line says; of a damaged one, what is whole."""
    clocks: dict[str, float] = {}
    busy: dict[str, float] = {}
    if found := CORES.search(line):
        cores = [(int(load), int(mhz)) for load, mhz in CORE.findall(found[1])]
        if cores:
            clocks["cpu"], busy["cpu"] = fastest_busy(
                [(float(mhz), min(load, 100) / 100) for load, mhz in cores]
            )
    if found := GPU.search(line):
        mhz = max(int(part) for part in (found[2] or found[3] or "0").split(",") if part)
        if mhz:
            clocks["gpu"] = float(mhz)
        if found[1]:
            busy["gpu"] = min(int(found[1]), 100) / 100
    if found := MEMORY.search(line):
        clocks["memory"] = float(found[1])
    memory: dict[str, float] = {}
    if found := RAM.search(line):
        memory |= {"used": float(found[1]), "total": float(found[2])}
    if found := SWAP.search(line):
        memory["swap"] = float(found[1])
    return Reading(
        clocks_mhz=clocks,
        busy=busy,
        temperatures_c={
            name: float(value)
            for name, value in TEMPERATURE.findall(line)
            if float(value) > SWITCHED_OFF_C
        },
        power_mw={name: float(value) for name, value in RAIL.findall(line) if name not in NO_RAILS},
        memory_mib=memory,
    )
