"""Many looks at a machine, summed up as its conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from devices.machine import Machine
from devices.telemetry.conditions import Conditions, Span, span
from devices.telemetry.judge import disturbed, throttled, unsteady
from devices.telemetry.reading import Look, Reading
from devices.telemetry.tegrastats import INPUT_RAILS

GPU_RAIL = "gpu"
"""The rail that nvidia-smi tells: the GPU alone, which RAPL's packages do not hold."""


def summed_up(
    looks: Sequence[Look],
    readers: Sequence[str],
    seconds: float,
    before: Machine | None = None,
    after: Machine | None = None,
) -> Conditions:
    """The conditions of a watch.

    Args:
        looks: In order of time.
        readers: What was looked at, in words.
        seconds: How long it lasted.
        before: The machine before the first look; None where it was not looked at.
        after: The machine after the last.
    """
    loads = [look.reading.other_load for look in looks if look.reading.other_load is not None]
    return Conditions(
        seconds=seconds,
        readings=len(looks),
        readers=tuple(readers),
        clocks_mhz=_spans(looks, lambda reading: reading.clocks_mhz),
        temperatures_c=_spans(looks, lambda reading: reading.temperatures_c),
        power_mw=_spans(looks, lambda reading: reading.power_mw),
        throttled=throttled(looks),
        other_load=span(loads) if loads else None,
        energy_mj=energy_mj(looks),
        disturbed=disturbed(looks, before, after),
        unsteady=unsteady(looks, before, after),
    )


def energy_mj(looks: Sequence[Look]) -> float | None:
    """Energy over the looks in millijoules; None where nothing meters it.

    The whole board's input where a rail carries it. Else the processor's counters, and the GPU's
    own power where it is told: a sum of parts, without memory, disks and losses.
    """
    for rail in INPUT_RAILS:
        if (whole := _integral(looks, rail)) is not None:
            return whole
    parts = _counted(looks)
    if (gpu := _integral(looks, GPU_RAIL)) is not None:
        parts.append(gpu)
    return sum(parts) if parts else None


def _integral(looks: Sequence[Look], rail: str) -> float | None:
    """Power over time, milliwatts times seconds, straight from one reading to the next."""
    points = [
        (look.at_s, look.reading.power_mw[rail]) for look in looks if rail in look.reading.power_mw
    ]
    if len(points) < 2:
        return None
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def _counted(looks: Sequence[Look]) -> list[float]:
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for look in looks:
        for name, value in look.reading.energy_mj.items():
            first.setdefault(name, value)
            last[name] = value
    # more than nothing: a meter that was read once, or stands still, tells nothing
    return [used for name in first if (used := last[name] - first[name]) > 0]


def _spans(
    looks: Sequence[Look], part: Callable[[Reading], Mapping[str, float]]
) -> dict[str, Span]:
    values: dict[str, list[float]] = {}
    for look in looks:
        for name, value in part(look.reading).items():
            values.setdefault(name, []).append(value)
    return {name: span(series) for name, series in values.items()}
