"""All engines of a bundle and its teacher in one interleaved run, and what disturbed it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from deploy.artifacts import StudentExport
from deploy.choose import spans
from deploy.eager import EagerError, eager_teacher
from deploy.engines import Engine
from deploy.neighbours import cpu_use, others_cores, warning
from devices.check import noise
from devices.latency import Runner, interleave, timed
from devices.profile import DeviceProfile

log = logging.getLogger(__name__)

ROUNDS = 10
PER_ROUND = 5
"""50 samples each: a p90 takes 44 to be bounded."""
TEACHER_SHARE = 3
"""The teacher is asked for a third of the samples: it takes most of the time, and only its median
is wanted."""
TEACHER = "teacher"


@dataclass(frozen=True)
class Measured:
    """Latencies of one interleaved run; nothing where this machine is not the device.

    Attributes:
        samples_ms: By the engine's name, and `TEACHER`, in order.
        others: Cores that other processes kept busy meanwhile, on average, or None.
    """

    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    others: float | None = None

    def p50_ms(self, name: str) -> float | None:
        """Median latency of an engine, or None where it was not measured."""
        return median(self.samples_ms[name]) if name in self.samples_ms else None

    def said(self, kinds: Mapping[str, str]) -> str:
        """The medians, for people, and how far to trust them.

        Args:
            kinds: Backend and precision of each engine, by its name.
        """
        if self.others is None:
            return "left out: this machine is not the device"
        medians = [(kinds.get(name, name), median(ms)) for name, ms in self.samples_ms.items()]
        return spans(medians, "ms") + warning(self.others, os.cpu_count() or 1)


def measure_all(
    export: StudentExport, engines: Sequence[Engine], profile: DeviceProfile, eager: Sequence[str]
) -> Measured:
    """Time engines and, where it can run, the teacher in PyTorch eager, taking turns.

    Args:
        export: Holds the teacher.
        engines: What to time; their names must differ.
        profile: Whose size and threads.
        eager: Command that runs the teacher, as `deploy.eager.eager_teacher` says.
    """
    image = noise(profile)
    before = cpu_use()
    runners: dict[str, Runner] = {one.name: timed(one.session, image) for one in engines}
    with _teacher(export, profile, eager) as teacher:
        if teacher is not None:
            runners[TEACHER] = lambda count: teacher(max(1, count // TEACHER_SHARE))
        try:
            samples = interleave(runners, rounds=ROUNDS, per_round=PER_ROUND)
        except EagerError as error:
            log.warning("%s; measuring without it", error)
            del runners[TEACHER]
            samples = interleave(runners, rounds=ROUNDS, per_round=PER_ROUND)
    return Measured(samples, others_cores(before, cpu_use()))


def _teacher(
    export: StudentExport, profile: DeviceProfile, eager: Sequence[str]
) -> contextlib.AbstractContextManager[Callable[[int], list[float]] | None]:
    if export.manifest.teacher is None:
        return contextlib.nullcontext()
    return eager_teacher(
        export.path, threads=profile.threads, image_size=profile.image_size, command=eager
    )
