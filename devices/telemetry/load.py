"""How many cores others keep busy: all work of the machine but that of this process.

Others are other programs, the kernel, and other guests of the same host (``steal``).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from devices.machine import read_text
from devices.telemetry.reading import Reading

WORK = ("user", "nice", "system", "irq", "softirq", "steal")
"""What counts; ``guest`` is within ``user``, and waiting for a disk is no work."""

LEAST_S = 0.05
"""Shorter than that, the kernel's ticks of 10 ms say nothing."""

SELDOM_S = 1.0
"""How often to look where finding the children takes a look at every process."""


class LoadReader:
    """Compares what the machine worked with what this process and its children worked.

    Args:
        machine_s: Seconds of work of all cores since the machine started.
        own_s: Seconds of work of this process and its children, the ended ones too.
        clock: Seconds from any start, never falling.
    """

    name = "psutil"

    def __init__(
        self,
        machine_s: Callable[[], float] | None = None,
        own_s: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine_s = machine_s or machine_work_s
        self._own_s = own_s or own_work_s
        self._clock = clock
        self.every_s = 0.0 if own_s or children_are_listed() else SELDOM_S
        self._last = self._look()

    def read(self) -> Reading:
        """Cores that others kept busy since the last read, and memory in use."""
        at, machine, own = self._look()
        at_last, machine_last, own_last = self._last
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        load = None
        if at - at_last >= LEAST_S:
            others = (machine - machine_last) - (own - own_last)
            load = max(0.0, others / (at - at_last))
            self._last = (at, machine, own)
        return Reading(
            other_load=load,
            memory_mib={
                "used": (memory.total - memory.available) / 2**20,
                "total": memory.total / 2**20,
                "swap": swap.used / 2**20,
            },
        )

    def close(self) -> None:
        """Nothing is open."""

    def _look(self) -> tuple[float, float, float]:
        return self._clock(), self._machine_s(), self._own_s()


def machine_work_s() -> float:
    """Seconds of work of all cores since the machine started."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in WORK))


def own_work_s(root: Path = Path("/")) -> float:
    """Seconds of work of this process and of all that it started, the ended ones too."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    if not children_are_listed(root):
        return total + _work_of_children_s()
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    for child in _descendants(root / "proc", os.getpid()):
        total += _ticks(root / f"proc/{child}/stat") * tick_s
    return total


def children_are_listed(root: Path = Path("/")) -> bool:
    """Does the kernel list the children of a process (``CONFIG_PROC_CHILDREN``)?"""
    process = os.getpid()
    return (root / f"proc/{process}/task/{process}/children").exists()


def _descendants(proc: Path, process: int) -> list[int]:
    """Children of a process and theirs.

    Asked of the threads' own lists, because a look at every process of the machine, which psutil
    takes, costs more than all the rest.
    """
    found = []
    for children in (proc / str(process) / "task").glob("*/children"):
        for word in read_text(children).split():
            found += [int(word), *_descendants(proc, int(word))]
    return found


def _ticks(stat: Path) -> int:
    """Work of a process and of its ended children, in ticks; 0 where it is gone."""
    # the name in the second field may hold anything, spaces and brackets too
    fields = read_text(stat).rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) if len(fields) > 15 else 0


def _work_of_children_s() -> float:
    """The same by psutil, where there is no list: a look at every process."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # ended since
            times = child.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total
