"""``pocketgan devices``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from devices.showing import machine_line, runtimes_line, show_facts
from devices.watch_cli import watch

if TYPE_CHECKING:
    from rich.console import Console

    from devices.machine import Machine
    from devices.profile import DeviceProfile


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", help="show one profile in full (or a .toml file)")
    parser.add_argument(
        "--watch",
        type=float,
        metavar="SECONDS",
        help="show clocks, temperatures, power and the load by others for that long instead",
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run the verb; return its exit status.

    Raises:
        ValueError, DeviceError: What a user can mend.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if args.watch is not None:
        if args.name is not None:
            raise ValueError(f"--watch looks at this machine; leave {args.name} out")
        watch(console, args.watch)
        return 0
    return _devices(console, args.name)


def _devices(console: Console, name: str | None) -> int:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from devices.machine import available, this_machine
    from devices.profile import load_profile, profile_names

    machine = this_machine()
    if name is not None:
        _show_profile(console, load_profile(name), machine)
        return 0
    profiles = [load_profile(name) for name in profile_names()]
    table = Table(box=SIMPLE_HEAD)
    table.add_column("profile", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("precisions", no_wrap=True)
    table.add_column("p50 ms", justify="right")
    table.add_column("here", no_wrap=True)
    for profile in profiles:
        here = "no" if available(profile, machine) else "[green]yes[/]"
        table.add_row(
            profile.name,
            profile.description,
            ", ".join(profile.precisions),
            "-" if profile.refused else f"{profile.budget.p50_ms:g}",
            "refused" if profile.refused else here,
            style="dim" if profile.refused else None,
        )
    console.print(table)
    for profile in profiles:
        if profile.refused:
            console.print(f"{profile.name}: {profile.refused}", style="dim", markup=False)
    show_facts(console, machine=machine_line(machine), runtimes=runtimes_line(machine))
    console.print("pocketgan devices NAME shows one in full, and why it is not this machine.")
    return 0


def _show_profile(console: Console, profile: DeviceProfile, machine: Machine) -> None:
    import psutil
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from devices.catalogue import about_machine, facts_of, mode_row

    show_facts(console, **facts_of(profile))
    if profile.power_modes:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("power mode", no_wrap=True)
        for header in ("W", "GPU MHz", "CPU MHz"):
            table.add_column(header, justify="right")
        table.add_column("p50 / p90 / p99 ms", no_wrap=True)
        table.add_column("source", overflow="fold")
        for mode in profile.power_modes:
            table.add_row(*mode_row(mode))
        console.print(table)
    free_mib = psutil.virtual_memory().available / 2**20
    for fact in about_machine(profile, machine, free_mib):
        show_facts(console, **{"this machine": fact})
