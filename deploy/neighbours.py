"""How much of the machine others took while we measured.

On a shared machine the teacher suffers more than an engine that is done in a few milliseconds, so
the ratio of the two flatters the engine; whoever reads the numbers must be able to see it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

TOO_MUCH = 0.1
"""Share of the cores that others may take before it is said aloud."""


@dataclass(frozen=True)
class CpuUse:
    """CPU time spent until some moment, in seconds.

    Attributes:
        at_s: The moment.
        everyone_s: By every process of the machine, over all its cores.
        own_s: By this process and the children it has waited for.
    """

    at_s: float
    everyone_s: float
    own_s: float


def cpu_use() -> CpuUse:
    """CPU time spent until now."""
    everyone = psutil.cpu_times()
    # Linux counts a guest's time as user time too, and waiting for a disk as neither
    busy = sum(getattr(everyone, name, 0.0) for name in ("user", "nice", "system", "steal"))
    own = os.times()
    return CpuUse(
        own.elapsed, busy, own.user + own.system + own.children_user + own.children_system
    )


def others_cores(before: CpuUse, after: CpuUse) -> float:
    """Cores that other processes kept busy between two moments, on average."""
    elapsed = max(after.at_s - before.at_s, 1e-9)
    others = (after.everyone_s - before.everyone_s) - (after.own_s - before.own_s)
    return max(0.0, others / elapsed)


def warning(others: float, cores: int) -> str:
    """What to add to latencies that were measured beside others; empty where they were quiet."""
    if others <= TOO_MUCH * cores:
        return ""
    return (
        f"; other processes took {others:.1f} of {cores} cores: measure again with --force when "
        "they are done"
    )
