"""nvidia-smi: the first GPU of a PC, a server, or a Jetson Thor.

Driver 535 renamed the reasons why a clock is low from ``clocks_throttle_reasons`` to
``clocks_event_reasons`` (github.com/utkuozdemir/nvidia_gpu_exporter/issues/123); the new name is
tried first.
"""

from __future__ import annotations

from collections.abc import Sequence

from devices.machine import Ask
from devices.telemetry.reading import Reader, Reading
from devices.telemetry.stream import LastLine

INTERVAL_MS = 250

FIELDS = (
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.draw",
    "utilization.gpu",
    "memory.used",
    "memory.total",
)

REASONS = {
    "hw_slowdown": "gpu slowed by its hardware",
    "hw_thermal_slowdown": "gpu too hot (hardware)",
    "hw_power_brake_slowdown": "gpu power brake",
    "sw_thermal_slowdown": "gpu too hot (driver)",
}
"""Reasons that count. Not ``sw_power_cap``: many GPUs report it all the time, laptops' above all,
and what it does to a clock shows in the clock."""

SPELLINGS = ("clocks_event_reasons", "clocks_throttle_reasons")


class NvidiaReader:
    """Keeps one nvidia-smi running."""

    name = "nvidia-smi"
    every_s = 0.0

    def __init__(
        self, fields: Sequence[str], program: str = "nvidia-smi", interval_ms: int = INTERVAL_MS
    ) -> None:
        self._fields = tuple(fields)
        self._lines = LastLine((program, *arguments(fields), f"--loop-ms={interval_ms}"))

    def read(self) -> Reading:
        """The newest line; empty where there is none since the last read.

        Raises:
            ReaderError: nvidia-smi has ended.
        """
        line = self._lines.read()
        return Reading() if line is None else parse(line, self._fields)

    def close(self) -> None:
        """End nvidia-smi."""
        self._lines.close()


def nvidia_reader(ask: Ask) -> Reader | None:
    """A reader of the fields that this driver knows, where there is a GPU."""
    for fields in spellings():
        if ask(("nvidia-smi", *arguments(fields))):
            return NvidiaReader(fields)
    return None


def spellings() -> list[tuple[str, ...]]:
    """The fields to ask for, the newest driver's first and the least last."""
    reasons = [tuple(f"{spelling}.{reason}" for reason in REASONS) for spelling in SPELLINGS]
    return [*((*FIELDS, *names) for names in reasons), FIELDS]


def arguments(fields: Sequence[str]) -> tuple[str, ...]:
    """What to call nvidia-smi with, for one line of values."""
    return ("--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")


def parse(line: str, fields: Sequence[str]) -> Reading:
    """What a line of values says; of a damaged one, what is whole.

    Args:
        line: Values between commas, and the end of the line where it is whole.
        fields: What was asked for, in that order.
    """
    values = [part.strip() for part in line.split(",")]
    if not line.endswith("\n"):
        values = values[:-1]  # the last may be cut
    said = dict(zip(fields, values, strict=False))
    numbers = {name: number for name in FIELDS if (number := _number(said.get(name))) is not None}
    clocks = {"gpu": "clocks.sm", "gpu memory": "clocks.mem"}
    memory = {"gpu used": "memory.used", "gpu total": "memory.total"}
    return Reading(
        clocks_mhz={name: numbers[field] for name, field in clocks.items() if field in numbers},
        busy={"gpu": min(1.0, numbers["utilization.gpu"] / 100)}
        if "utilization.gpu" in numbers
        else {},
        temperatures_c={"gpu": numbers["temperature.gpu"]} if "temperature.gpu" in numbers else {},
        power_mw={"gpu": numbers["power.draw"] * 1000} if "power.draw" in numbers else {},
        throttled=tuple(
            words
            for reason, words in REASONS.items()
            if any(said.get(f"{spelling}.{reason}") == "Active" for spelling in SPELLINGS)
        ),
        memory_mib={name: numbers[field] for name, field in memory.items() if field in numbers},
    )


def _number(text: str | None) -> float | None:
    """A number, or None for ``[N/A]`` and the like."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
