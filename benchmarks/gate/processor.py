"""Who used the processor while a gate ran: the gate, its neighbour, or others."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
from ledger import Neighbours

from deploy.neighbours import CpuUse, cpu_use, others_cores


@dataclass(frozen=True)
class Used:
    """Processor time until some moment, in seconds.

    Attributes:
        everyone: By all, and by this program and the processes it has waited for.
        steal_s: By the host of this virtual machine.
        neighbour_s: By the campaign's neighbour.
    """

    everyone: CpuUse
    steal_s: float
    neighbour_s: float


def used(pid: int | None) -> Used:
    """Processor time until now; ``pid`` is the campaign's neighbour."""
    own = psutil.Process(pid).cpu_times() if pid is not None else None
    return Used(
        everyone=cpu_use(),
        steal_s=getattr(psutil.cpu_times(), "steal", 0.0),
        neighbour_s=own.user + own.system if own else 0.0,
    )


def neighbours(earlier: Used, begin: Used, end: Used, *, with_own: bool) -> Neighbours:
    """Who else used the processor, in cores."""

    def elapsed(first: Used, last: Used) -> float:
        return max(last.everyone.at_s - first.everyone.at_s, 1e-9)

    def own(first: Used, last: Used) -> float:
        return (last.neighbour_s - first.neighbour_s) / elapsed(first, last)

    def others(first: Used, last: Used) -> float:
        return max(0.0, others_cores(first.everyone, last.everyone) - own(first, last))

    return Neighbours(
        before=others(earlier, begin),
        others=others(begin, end),
        steal=(end.steal_s - begin.steal_s) / elapsed(begin, end),
        own=own(begin, end) if with_own else None,
    )
