"""vcgencmd of Raspberry Pi: the firmware's own word on heat, voltage and the true clock.

The firmware slows the cores down below the kernel: ``scaling_cur_freq`` does not show it. Source of
the bits: raspberrypi.com/documentation/computers/os.html, get_throttled.
"""

from __future__ import annotations

import re

from devices.machine import Ask
from devices.telemetry.reading import Reader, ReaderError, Reading

EVERY_S = 2.0
"""Each look starts three processes. Nothing is missed meanwhile: the firmware keeps what happened
until the board starts anew."""

BITS = {
    0: "under-voltage",
    1: "arm clock capped",
    2: "throttled",
    3: "soft temperature limit",
}
"""What is so now; 16 bits higher, what has been so since the board started."""

HAPPENED = 16

THROTTLED = re.compile(r"throttled=0x([0-9a-fA-F]+)\s*$")
TEMPERATURE = re.compile(r"temp=(\d+(?:\.\d+)?)'C")
CLOCK = re.compile(r"frequency\(\d+\)=(\d+)\s*$")


class VcgencmdReader:
    """Asks vcgencmd now and then."""

    name = "vcgencmd"
    every_s = EVERY_S

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self) -> Reading:
        """Flags, the temperature of the chip, the clock of the cores.

        Raises:
            ReaderError: vcgencmd no longer answers.
        """
        flags = throttle_bits(self._ask(("vcgencmd", "get_throttled")) or "")
        if flags is None:
            raise ReaderError("vcgencmd get_throttled no longer answers")
        temperature = TEMPERATURE.match(self._ask(("vcgencmd", "measure_temp")) or "")
        clock = CLOCK.match(self._ask(("vcgencmd", "measure_clock", "arm")) or "")
        return Reading(
            clocks_mhz={"arm": int(clock[1]) / 1e6} if clock else {},
            temperatures_c={"chip": float(temperature[1])} if temperature else {},
            throttled=tuple(words for bit, words in BITS.items() if flags >> bit & 1),
            events={words: flags >> (bit + HAPPENED) & 1 for bit, words in BITS.items()},
        )

    def close(self) -> None:
        """Nothing is open."""


def vcgencmd_reader(ask: Ask) -> Reader | None:
    """A reader, where vcgencmd answers."""
    if throttle_bits(ask(("vcgencmd", "get_throttled")) or "") is None:
        return None
    return VcgencmdReader(ask)


def throttle_bits(answer: str) -> int | None:
    """The bits of ``throttled=0x50005``; None where that is not what it says."""
    found = THROTTLED.match(answer)
    return int(found[1], 16) if found else None
