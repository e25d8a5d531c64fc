"""nvpmodel of NVIDIA Jetson: the power mode in force, and which clocks it allows."""

from __future__ import annotations

import re
from pathlib import Path

from devices.machine import Ask, read_text
from devices.telemetry.reading import Reader, ReaderError, Reading

EVERY_S = 10.0
"""A mode is changed by a person; each look starts a process."""

MODE = re.compile(r"NV Power Mode: *(\S+)")
MODEL = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=\d+\s+NAME=(\S+)\s*>", re.MULTILINE)
CAP = re.compile(r"^\s*((?:CPU|GPU)\w*)\s+MAX_FREQ\s+(-?\d+)\s*$", re.MULTILINE)

UNITS_IN_MHZ = {"C": 1e3, "G": 1e6}
"""By first letter: cpufreq counts in kHz, the GPU's devfreq in Hz."""

NO_CAP = 2_147_483_647
"""Stands for no cap, as does -1."""


class NvpmodelReader:
    """Asks nvpmodel now and then."""

    name = "nvpmodel"
    every_s = EVERY_S

    def __init__(self, ask: Ask, configuration: str = "") -> None:
        self._ask = ask
        self._configuration = configuration

    def read(self) -> Reading:
        """The mode, and the clocks it allows.

        Raises:
            ReaderError: nvpmodel no longer answers.
        """
        mode = power_mode(self._ask(("nvpmodel", "-q")) or "")
        if mode is None:
            raise ReaderError("nvpmodel -q no longer names a mode")
        caps = caps_mhz(self._configuration, mode)
        words = ", ".join(f"{name} at most {mhz:.0f} MHz" for name, mhz in caps.items())
        return Reading(settings={"power mode": mode} | ({"caps": words} if words else {}))

    def close(self) -> None:
        """Nothing is open."""


def nvpmodel_reader(root: Path, ask: Ask) -> Reader | None:
    """A reader, where nvpmodel answers."""
    if power_mode(ask(("nvpmodel", "-q")) or "") is None:
        return None
    return NvpmodelReader(ask, read_text(root / "etc/nvpmodel.conf"))


def power_mode(answer: str) -> str | None:
    """``15W`` from what ``nvpmodel -q`` prints, ``--verbose`` or not."""
    found = MODE.search(answer)
    return found[1] if found else None


def caps_mhz(configuration: str, mode: str) -> dict[str, float]:
    """The highest clocks that a mode allows, in MHz by their names in ``nvpmodel.conf``."""
    parts = MODEL.split(configuration)  # before, name, body, name, body, ...
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name == mode:
            return {
                clock: int(value) / UNITS_IN_MHZ[clock[0]]
                for clock, value in CAP.findall(body)
                if 0 < int(value) < NO_CAP
            }
    return {}
