"""Measure an engine as MLPerf's single stream does: one image, then the next, until enough.

Three numbers that are often mixed up stay apart: how long loading takes, how long the first image
takes, and how long an image takes from then on. Times are wall clock around ``Session.run`` only.
A fourth, from the start of a fresh process to its first image, is measured outside of this process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from pydantic import AwareDatetime, PositiveFloat, PositiveInt, ValidationError

from devices.machine import Machine
from devices.percentiles import Percentile
from devices.profile import Backend, Frozen, Precision, explain
from devices.session import Images, Session
from devices.telemetry.conditions import Conditions

Clock = Callable[[], float]
Runner = Callable[[int], list[float]]
"""Warms up, then returns that many latencies in milliseconds."""


@dataclass(frozen=True)
class Mode:
    """How long to measure: until there are enough samples **and** enough time has passed.

    Attributes:
        min_samples: Images to time at least.
        min_seconds: Time to spend at least.
        max_seconds: Time after which it ends with what there is.
        cold_starts: Fresh processes to start before that.
        cooldown_s: Time to leave the machine alone between the two, so that the work of the cold
            starts is not measured as heat.
    """

    min_samples: int
    min_seconds: float
    max_seconds: float
    cold_starts: int = 0
    cooldown_s: float = 0


ModeName = Literal["rapid", "fast", "normal"]

MODES: dict[ModeName, Mode] = {
    # times and counts of MLPerf Mobile's modes, but for fast: 459 samples instead of 128, because
    # a budget promises a p99 and fewer cannot show one. The pause is as long as what it follows:
    # some seconds of work at most need some seconds of rest; rapid is a first look and takes none
    "rapid": Mode(64, 6, 60, cold_starts=3, cooldown_s=0),
    "fast": Mode(459, 10, 300, cold_starts=5, cooldown_s=1),
    "normal": Mode(1024, 60, 600, cold_starts=10, cooldown_s=10),
}

UNWATCHED = Conditions(
    seconds=0,
    readings=0,
    readers=(),
    clocks_mhz={},
    temperatures_c={},
    power_mw={},
    throttled=(),
    other_load=None,
    energy_mj=None,
    disturbed=(),
)
"""What is known of a machine that nobody looked at."""


class LatencyReport(Frozen):
    """Latency of one engine on one machine, in milliseconds per image at batch 1.

    Attributes:
        engine_sha256: Digest of the engine file.
        mode: How long was measured; None in a report from before it was written down.
        cold_ms: From the start of a fresh process to the end of its first image, one for each.
        load_ms: Opening a session, the runtime's own import included.
        first_ms: The first image after that.
        samples_ms: Every image after the warm-up, in order.
        p50: Percentiles of ``samples_ms``; None where they are too few to bound it.
        peak_rss_mib: The most memory this process ever held, in MiB.
        conditions: What the machine did while ``samples_ms`` were taken; no readings where nobody
            looked.
        started_at: When the measurement began.
    """

    schema_version: Literal[2] = 2
    machine: Machine
    fingerprint: str
    engine_sha256: str
    profile: str
    backend: Backend
    precision: Precision
    image_size: PositiveInt
    mode: ModeName | None
    cold_ms: tuple[PositiveFloat, ...]
    load_ms: float
    first_ms: float
    samples_ms: tuple[float, ...]
    p50: Percentile | None
    p90: Percentile | None
    p95: Percentile | None
    p99: Percentile | None
    peak_rss_mib: float
    conditions: Conditions
    started_at: AwareDatetime

    @property
    def power_mode(self) -> str | None:
        """The board's power mode, or None where it has none."""
        return self.machine.power_mode

    @property
    def energy_mj_per_image(self) -> float | None:
        """Millijoules per image, of all that the board meters; None where it has no meter.

        What the board draws when idle is in it: nothing is subtracted.
        """
        if self.conditions.energy_mj is None or not self.samples_ms:
            return None
        return self.conditions.energy_mj / len(self.samples_ms)


def read_report(text: str | bytes) -> LatencyReport:
    """A report from the text of its file, of this or the former schema_version.

    Raises:
        ValueError: It is none, or of a version that this cannot read; the message says which.
    """
    try:
        values = json.loads(text)
        version = values.get("schema_version")
    except (ValueError, AttributeError) as error:
        raise ValueError("not a latency report of pocketgan check --json") from error
    if version == 1:  # from before cold starts, and before the machine was watched
        values |= {"schema_version": 2, "mode": None, "cold_ms": []}
        values["conditions"] = UNWATCHED.model_dump()
    elif version != 2:
        raise ValueError(
            f"a latency report of schema_version {version}; this pocketgan reads 1 and 2: "
            "measure again, or read it with the pocketgan that wrote it"
        )
    try:
        return LatencyReport.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ValueError(f"latency report: {explain(error, LatencyReport)}") from error


@dataclass(frozen=True)
class Timing:
    """What a stopwatch saw, in milliseconds."""

    load_ms: float
    first_ms: float
    samples_ms: tuple[float, ...]


def measure(
    load: Callable[[], Session],
    images: Images,
    mode: Mode,
    *,
    warmup_runs: int = 10,
    warmup_seconds: float = 0.5,
    clock: Clock = time.perf_counter,
    beside: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Timing:
    """Time loading, the first image, and then a single stream of images.

    Args:
        load: Opens the session.
        images: What to translate, every time.
        mode: When to stop.
        warmup_runs: Images to translate unmeasured after the first, at least.
        warmup_seconds: Time to spend on those, at least: clocks rise and caches fill.
        clock: Seconds from any start, never falling.
        beside: Makes what is entered for the single stream alone, to watch the machine.
    """
    start = clock()
    session = load()
    loaded = clock()
    session.run(images)
    first = clock()
    runs = 0
    while runs < warmup_runs or clock() - first < warmup_seconds:
        session.run(images)
        runs += 1
    samples: list[float] = []
    with beside():
        begin = now = clock()
        while len(samples) < mode.min_samples or now - begin < mode.min_seconds:
            before = clock()
            session.run(images)
            now = clock()
            samples.append((now - before) * 1e3)
            if now - begin >= mode.max_seconds:
                break
    return Timing((loaded - start) * 1e3, (first - loaded) * 1e3, tuple(samples))


def timed(
    session: Session, images: Images, clock: Clock = time.perf_counter, *, warmup: int = 2
) -> Runner:
    """Make a runner of a session: some runs to warm up, then as many timed ones as asked."""

    def runner(count: int) -> list[float]:
        for _ in range(warmup):
            session.run(images)
        samples = []
        for _ in range(count):
            start = clock()
            session.run(images)
            samples.append((clock() - start) * 1e3)
        return samples

    return runner


def interleave(
    runners: Mapping[str, Runner], *, rounds: int, per_round: int
) -> dict[str, list[float]]:
    """Measure several engines in one run, so that what disturbs one disturbs them all.

    Each round runs all of them; the order moves on by one from round to round, so with two it is
    A/B, B/A. A runner warms up by itself after each switch.

    Returns:
        For each name ``rounds`` x ``per_round`` latencies in milliseconds, in order.
    """
    names = list(runners)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in rotated(names, number):
            samples[name] += runners[name](per_round)
    return samples


def rotated(names: Sequence[str], steps: int) -> list[str]:
    """``names``, beginning ``steps`` further on."""
    start = steps % len(names) if names else 0
    return [*names[start:], *names[:start]]


def peak_rss_mib(status: Path = Path("/proc/self/status")) -> float:
    """The most memory this process ever held, in MiB; where Linux does not tell, what it holds.

    Not ``getrusage``: Linux lets a child start from the peak of the parent that forked it.
    """
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(psutil.Process().memory_info().rss) / 2**20
