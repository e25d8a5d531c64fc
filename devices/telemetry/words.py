"""Conditions in words: clocks, temperatures, power and neighbours, a short line each."""

from __future__ import annotations

from collections.abc import Mapping

from devices.telemetry.conditions import Conditions, Span

SHOWN = 4
"""Clocks, temperatures or rails that are named; a board has a dozen of each."""


def in_words(seen: Conditions) -> dict[str, str]:
    """What a machine did, by name; a line is empty where that is not known."""
    load = seen.other_load
    return {
        "clocks": _spans(seen.clocks_mhz, "MHz"),
        "temperature": _spans(seen.temperatures_c, "C"),
        "power": _spans(seen.power_mw, "mW"),
        "throttled": ", ".join(seen.throttled),
        "other load": ""
        if load is None
        else f"others kept {load.median:.1f} cores busy ({load.low:.1f} to {load.high:.1f})",
    }


def _spans(spans: Mapping[str, Span], unit: str) -> str:
    named = [f"{name} {_span(one)} {unit}" for name, one in spans.items()]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more


def _span(one: Span) -> str:
    if round(one.low) == round(one.high):
        return f"{one.median:.0f}"
    return f"{one.median:.0f} ({one.low:.0f} to {one.high:.0f})"
