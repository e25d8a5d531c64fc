"""What gates of this machine showed before, and what one adds to that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from deploy.gate_sides import Sides
from devices.gate.history import (
    Entry,
    equal_entry,
    history_file,
    known_spread,
    recall,
    remember,
    steady_entries,
)
from devices.gate.report import GateReport
from devices.machine import Machine
from devices.sealed import read_sealed


def spread_of(asked: Path | None, machine: Machine) -> float | None:
    """How far equal engines were apart on this machine before, as a fraction; None if unknown."""
    return known_spread(recall(file_of(asked, machine)), machine.runtimes)


def file_of(asked: Path | None, machine: Machine) -> Path:
    """The history that was asked for, else the machine's own."""
    return history_file(machine.fingerprint()) if asked is None else asked


def entries_of(sides: Sides, report: GateReport, began: datetime) -> list[Entry]:
    """What a gate showed that is worth keeping.

    Nothing where the machine throttled or changed, or where it was the code that differed.
    """
    if report.unsteady or not sides.engines:
        return []
    entries: list[Entry] = []
    for pair, measured in zip(sides.pairs, report.pairs, strict=True):
        before, after = read_sealed(pair.baseline), read_sealed(pair.candidate)
        entries += steady_entries(measured, before, after, began)
        if before.sha256[before.engine_file] == after.sha256[after.engine_file]:
            entries.append(equal_entry(measured, after, began))
    return entries


def kept(asked: Path | None, machine: Machine, entries: Sequence[Entry]) -> list[str]:
    """Add to the history; what is to be said of that, a sentence each.

    A file that nobody asked for and that cannot be written fails no gate: CI has homes that cannot.

    Raises:
        OSError: The file that was asked for cannot be written.
    """
    if not entries:
        return []
    try:
        remember(file_of(asked, machine), entries)
    except OSError as error:
        if asked is not None:
            raise
        return [f"this machine's history is not kept ({error}); name a file with --history"]
    return []
