"""What a machine was doing while something was measured on it: a record, in numbers and words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pydantic import FiniteFloat, NonNegativeFloat, NonNegativeInt, model_validator

from devices.profile import Frozen


class Span(Frozen):
    """The least, the middle and the most of a quantity over a watch, in the quantity's own unit."""

    low: FiniteFloat
    median: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low <= self.median <= self.high:
            raise ValueError(
                f"a span needs low <= median <= high, got {self.low} / {self.median} / {self.high}"
            )
        return self


class Conditions(Frozen):
    """The state of a machine over one measurement.

    Attributes:
        seconds: How long it was watched.
        readings: How many looks at the machine this sums up.
        readers: What was looked at, ``nvpmodel: 15W`` where a source names a setting; a source
            that failed on the way stays with a note (``rapl, until it failed: ...``).
        clocks_mhz: Clock frequencies by name, in MHz.
        temperatures_c: Temperatures by name, in degrees Celsius.
        power_mw: Power by name of the rail or package, in milliwatts.
        throttled: Throttle flags that were up at any time in the watch, in words.
        other_load: Cores that others than the measuring process kept busy; None where not told.
        energy_mj: Energy over the whole watch, in millijoules, of what the board meters; None
            where it has no meter.
        disturbed: One sentence for each reason why figures measured meanwhile cannot be believed;
            empty where the machine was still.
        unsteady: Those of them that are about the machine itself. What compares two things side
            by side may judge beside a neighbour, who slows both, and not on these.
    """

    seconds: NonNegativeFloat
    readings: NonNegativeInt
    readers: tuple[str, ...]
    clocks_mhz: dict[str, Span]
    temperatures_c: dict[str, Span]
    power_mw: dict[str, Span]
    throttled: tuple[str, ...]
    other_load: Span | None
    energy_mj: NonNegativeFloat | None
    disturbed: tuple[str, ...]
    unsteady: tuple[str, ...] = ()


def span(values: Sequence[float]) -> Span:
    """The span of one or more values."""
    return Span(
        low=float(min(values)),
        median=float(statistics.median(values)),
        high=float(max(values)),
    )
