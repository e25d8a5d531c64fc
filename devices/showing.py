"""Lines that the verbs of this room print alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from devices.machine import Machine
    from devices.profile import DeviceProfile


def show_facts(console: Console, **facts: str) -> None:
    """Aligned lines of name and value; a long value goes on under itself."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=12)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console.print(table)


def machine_line(machine: Machine) -> str:
    """What a machine is, on one line."""
    parts = [
        machine.board,
        machine.cpu,
        f"{machine.cores} cores",
        f"{machine.memory_mib / 1024:.0f} GiB",
        machine.power_mode and f"power mode {machine.power_mode}",
        machine.governor and f"governor {machine.governor}",
        machine.system,
        f"fingerprint {machine.fingerprint()}",
    ]
    return ", ".join(part for part in parts if part)


def runtimes_line(machine: Machine) -> str:
    """Its runtimes and their versions."""
    return ", ".join(f"{name} {version}" for name, version in machine.runtimes.items()) or "none"


def size_line(profile: DeviceProfile) -> str:
    """The size that latency is promised for."""
    return f"{profile.image_size} x {profile.image_size} pixels"


def require_folder_of(file: Path | None, option: str = "--json") -> None:
    """Refuse before measuring, not after, a report that cannot be written."""
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"{option} {file}: there is no folder {file.parent}; make it first")
