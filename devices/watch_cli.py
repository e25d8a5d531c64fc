"""``pocketgan devices --watch``: what the machine tells about itself, while you look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from devices.telemetry.conditions import Conditions, Span
    from devices.telemetry.reading import Reading

REDRAWN_S = 1.0


def watch(console: Console, seconds: float) -> None:
    """Show every source once a second, then what it comes to.

    Args:
        console: Where to.
        seconds: How long.

    Raises:
        ValueError: ``seconds`` is not above 0.
    """
    from rich.live import Live

    from devices.telemetry.readers import readers_of_this_machine
    from devices.telemetry.watch import Watch

    if not 0 < seconds <= 86_400:
        raise ValueError(f"--watch takes seconds above 0 and up to a day, got {seconds:g}")
    with Watch(readers_of_this_machine()) as watched:
        end = time.monotonic() + seconds
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(REDRAWN_S, left))
                if console.is_terminal:
                    live.update(_now(watched.latest), refresh=True)
    _show(console, watched.conditions())
    before = [f"{name} ({count})" for name, count in watched.latest.events.items() if count]
    if before:
        console.print(f"since the start: {', '.join(before)}", style="yellow", markup=False)


def _now(reading: Reading) -> Table:
    table = _table("", "now")
    for name, mhz in reading.clocks_mhz.items():
        share = reading.busy.get(name)
        busy = "" if share is None else f", {share:.0%} busy"
        table.add_row(f"{name} clock", f"{mhz:.0f} MHz{busy}")
    for name, degrees in reading.temperatures_c.items():
        limit = reading.limits_c.get(name)
        table.add_row(name, f"{degrees:.1f} C" + ("" if limit is None else f" of {limit:g}"))
    for name, milliwatts in reading.power_mw.items():
        table.add_row(name, f"{milliwatts / 1000:.2f} W")
    for name, value in reading.settings.items():
        table.add_row(name, value)
    for name, mib in reading.memory_mib.items():
        table.add_row(f"memory {name}", f"{mib:.0f} MiB")
    if reading.other_load is not None:
        table.add_row("others", f"{reading.other_load:.2f} cores")
    for flag in reading.throttled:
        table.add_row("[bold red]throttled[/]", flag)
    return table


def _show(console: Console, conditions: Conditions) -> None:
    table = _table(f"{conditions.readings} looks", "lowest", "middle", "highest")
    for name, mhz in conditions.clocks_mhz.items():
        table.add_row(f"{name} clock, MHz", *_row(mhz, 0))
    for name, degrees in conditions.temperatures_c.items():
        table.add_row(f"{name}, C", *_row(degrees, 1))
    for name, milliwatts in conditions.power_mw.items():
        table.add_row(f"{name}, mW", *_row(milliwatts, 0))
    if conditions.other_load is not None:
        table.add_row("others, cores", *_row(conditions.other_load, 2))
    console.print(table)
    console.print(f"sources: {'; '.join(conditions.readers)}", style="dim", markup=False)
    if conditions.energy_mj is not None:
        used = f"{conditions.energy_mj / 1000:.2f} J in {conditions.seconds:.1f} s"
        console.print(f"energy: {used}", style="dim", markup=False)
    for reason in conditions.disturbed:
        console.print(f"disturbed: {reason}", style="bold red", markup=False)
    if not conditions.disturbed:
        console.print("still, as far as these sources tell", style="bold green")


def _table(first: str, *others: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right")
    return table


def _row(span: Span, digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in (span.low, span.median, span.high)]
