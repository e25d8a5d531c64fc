"""Was the machine still? Reasons why figures measured meanwhile cannot be believed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from devices.machine import Machine
from devices.telemetry.reading import BUSY, Look

FALL = 0.10
"""A clock that falls by more than this share of its own highest moved. Below it lie the steps
between neighbouring frequencies (3 to 6 % on Jetson and Raspberry Pi), which governors take by
themselves; a gate's effect floor is 5 %, so what remains unseen is at most about twice that."""

GROUP = 5
"""Looks under load that make one clock: their median. A single low reading is the moment between
two images, not a slower board; so at least twice as many looks under load are needed to judge."""

OTHERS = 0.25
"""Cores that others may keep busy, in the middle look. A desktop or a board's services stay well
under it, a second program at work is at 1; on four cores it is a sixteenth of the machine."""

SETTINGS = {"governor": "governor", "power_mode": "power mode"}
"""What of a machine somebody may change while it is measured, and its name in a reading. Not the
count of cores: it is that of the calling thread, and a runtime may pin its threads."""


def disturbed(
    looks: Sequence[Look], before: Machine | None = None, after: Machine | None = None
) -> tuple[str, ...]:
    """Why figures measured during these looks cannot be believed, a sentence each.

    Args:
        looks: In order of time.
        before: The machine before the first of them; None where it was not looked at.
        after: The machine after the last.

    Returns:
        Nothing, where the machine was still as far as it tells.
    """
    return (*unsteady(looks, before, after), *_others(looks))


def unsteady(
    looks: Sequence[Look], before: Machine | None = None, after: Machine | None = None
) -> tuple[str, ...]:
    """Those reasons of `disturbed` that are about the machine itself, not about its neighbours."""
    return (
        *(f"throttled: {flag}" for flag in throttled(looks)),
        *_fallen_clocks(looks),
        *_limits_reached(looks),
        *_changed_settings(looks, before, after),
    )


def throttled(looks: Sequence[Look]) -> tuple[str, ...]:
    """Throttle flags that were up at any time, in words, each once.

    What is only known to have happened since the machine started counts where its count rose: one
    that was already there says nothing about this watch.
    """
    flags: dict[str, None] = {}
    first: dict[str, int] = {}
    for look in looks:
        flags |= dict.fromkeys(look.reading.throttled)
        for name, count in look.reading.events.items():
            if count > first.setdefault(name, count):
                flags[name] = None
    return tuple(flags)


def _fallen_clocks(looks: Sequence[Look]) -> Iterator[str]:
    """Clocks under load only: an idle one falls by itself."""
    names = dict.fromkeys(name for look in looks for name in look.reading.clocks_mhz)
    for name in names:
        working = [
            look.reading.clocks_mhz[name]
            for look in looks
            if name in look.reading.clocks_mhz and look.reading.busy.get(name, 0.0) >= BUSY
        ]
        # an incomplete last group joins the one before it
        groups = [
            statistics.median(working[at : at + GROUP if at + 2 * GROUP <= len(working) else None])
            for at in range(0, len(working) - GROUP + 1, GROUP)
        ]
        highest = lowest = 0.0
        for group in groups:
            if group < (1 - FALL) * highest and (not lowest or group < lowest):
                lowest = group
            highest = max(highest, group)
        if lowest:
            yield f"the {name} clock fell from {highest:.0f} to {lowest:.0f} MHz under load"


def _limits_reached(looks: Sequence[Look]) -> Iterator[str]:
    limits = {name: limit for look in looks for name, limit in look.reading.limits_c.items()}
    for name, limit in limits.items():
        seen = [look.reading.temperatures_c.get(name) for look in looks]
        hottest = max((value for value in seen if value is not None), default=None)
        if hottest is not None and hottest >= limit:
            yield f"{name} reached {hottest:.1f} C, and from {limit:g} C on the board slows down"


def _changed_settings(
    looks: Sequence[Look], before: Machine | None, after: Machine | None
) -> Iterator[str]:
    """One sentence for each setting, whoever saw it change."""
    changes: dict[str, tuple[str, str]] = {}
    first: dict[str, str] = {}
    for look in looks:
        for name, value in look.reading.settings.items():
            if value != first.setdefault(name, value):
                changes.setdefault(name, (first[name], value))
    if before is not None and after is not None:
        for field, name in SETTINGS.items():
            old, new = getattr(before, field), getattr(after, field)
            if old != new:
                changes.setdefault(name, (str(old), str(new)))
    for name, (earlier, later) in changes.items():
        yield f"the {name} changed from {earlier} to {later}"


def _others(looks: Sequence[Look]) -> Iterator[str]:
    loads = [look.reading.other_load for look in looks if look.reading.other_load is not None]
    if loads and (median := statistics.median(loads)) > OTHERS:
        yield (
            f"others kept {median:.2f} cores busy (the middle of {len(loads)} looks, "
            f"{OTHERS:g} is allowed)"
        )
