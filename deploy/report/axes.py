"""Axes of plots: round numbers that lie evenly, and where a value falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""What a step between ticks may begin with."""
WIDE = 12.0
"""Latencies that lie further apart than this are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        low: Value at ``start``.
        high: Value at ``end``.
        start: Where the axis begins, in units of the drawing.
        end: Where it ends.
        ticks: Values to write beside it.
        logarithmic: Whether equal ratios lie equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; one beyond the axis lies at its end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)


def linear(
    values: Sequence[float], start: float, end: float, *, zero: bool = False, count: int = 5
) -> Axis:
    """An axis that begins and ends at a tick.

    Args:
        values: What it must hold.
        start: Where it begins, in units of the drawing.
        end: Where it ends.
        zero: Whether it begins at zero.
        count: How many ticks are wanted, about.
    """
    low, high = (0.0 if zero else min(values)), max(values)
    if high <= low:
        low, high = (0.0, high or 1.0) if zero else (low - 0.5, low + 0.5)
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def latency(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis for positive values: from zero, or logarithmic where they lie far apart."""
    low, high = min(values), max(values)
    if low <= 0 or high / low <= WIDE:
        return linear(values, start, end, zero=True)
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [round(digit * 10.0**ten, 12) for ten in tens for digit in (1, 2, 5)]
    below = max((tick for tick in candidates if tick <= low), default=low)
    above = min((tick for tick in candidates if tick >= high), default=high)
    ticks = tuple(tick for tick in candidates if below <= tick <= above)
    return Axis(below, above, start, end, ticks, logarithmic=True)


def label(value: float) -> str:
    """A tick, for people."""
    return f"{value:g}"


def _step(least: float) -> float:
    """The smallest round number not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))
