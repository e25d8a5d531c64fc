"""Which sources of readings work on a machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from devices.machine import Ask, ask_program
from devices.telemetry.cpufreq import cpufreq_reader
from devices.telemetry.load import LoadReader
from devices.telemetry.nvidia import nvidia_reader
from devices.telemetry.nvpmodel import nvpmodel_reader
from devices.telemetry.overcurrent import overcurrent_reader
from devices.telemetry.rapl import rapl_reader
from devices.telemetry.reading import Reader
from devices.telemetry.tegrastats import TegrastatsReader
from devices.telemetry.thermal import thermal_reader
from devices.telemetry.vcgencmd import vcgencmd_reader

FOLDERS = ("usr/bin", "usr/sbin", "usr/local/bin", "bin")
"""Where a board keeps tegrastats; its own tools are often not on a service's path."""


def readers_of_this_machine(root: Path = Path("/"), ask: Ask | None = None) -> tuple[Reader, ...]:
    """The sources that work here, a board's own tools first: where two tell the same, they count.

    Nothing is left running: what needs a process starts it at the first read.

    Args:
        root: Where ``proc``, ``sys``, ``etc`` and ``usr`` are.
        ask: Runs a board's tool; by default as a subprocess.
    """
    ask = ask or ask_program
    tegrastats = shutil.which("tegrastats", path=os.pathsep.join(str(root / at) for at in FOLDERS))
    found = (
        TegrastatsReader(tegrastats) if tegrastats else None,
        nvpmodel_reader(root, ask),
        vcgencmd_reader(ask),
        nvidia_reader(ask),
        overcurrent_reader(root),
        thermal_reader(root),
        cpufreq_reader(root),
        rapl_reader(root),
        LoadReader(),
    )
    return tuple(reader for reader in found if reader is not None)
