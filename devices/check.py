"""Check a bundle: measure it on this machine and hold it against its profile's budget."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from devices.latency import MODES, LatencyReport, ModeName, measure, peak_rss_mib
from devices.machine import Machine, available, this_machine
from devices.percentiles import Percentile, percentile
from devices.profile import DeviceProfile, LatencyBudget
from devices.sealed import BundleError, SealedEngine, read_sealed
from devices.session import DeviceError, Images, Session, open_session

PERCENTILES = (50, 90, 95, 99)


def measure_bundle(bundle: Path, mode: ModeName = "fast") -> LatencyReport:
    """Measure a bundle on this machine.

    Raises:
        BundleError: The bundle is damaged, or not compiled yet.
        DeviceError: This machine is not the one it was compiled for.
    """
    sealed, machine = ready(bundle)
    started_at = datetime.now(UTC)
    timing = measure(loader(bundle, sealed), noise(sealed.profile), MODES[mode])
    p50, p90, p95, p99 = (percentile(timing.samples_ms, percent) for percent in PERCENTILES)
    return LatencyReport(
        machine=machine,
        fingerprint=machine.fingerprint(),
        engine_sha256=sealed.sha256[sealed.engine_file],
        profile=sealed.profile.name,
        backend=sealed.backend,
        precision=sealed.precision,
        image_size=sealed.profile.image_size,
        load_ms=timing.load_ms,
        first_ms=timing.first_ms,
        samples_ms=timing.samples_ms,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        peak_rss_mib=peak_rss_mib(),
        started_at=started_at,
    )


def ready(bundle: Path, machine: Machine | None = None) -> tuple[SealedEngine, Machine]:
    """Open a bundle for measuring, on the machine it is for.

    Raises:
        BundleError: The bundle is damaged, or not compiled yet.
        DeviceError: This machine is not the one it was compiled for; the message says why.
    """
    sealed = read_sealed(bundle)
    name = sealed.profile.name
    if not sealed.compiled:
        raise BundleError(
            f"{bundle} is not compiled yet: finish it on the board with "
            f"`pocketgan deploy EXPORT --device {name}`, then measure the bundle it writes"
        )
    machine = machine or this_machine()
    reasons = available(sealed.profile, machine)
    if reasons:
        raise DeviceError(
            f"{bundle} is for {name} and this machine is not one: {'; '.join(reasons)}. "
            "Measure it on the board, or deploy for a profile of this machine"
        )
    return sealed, machine


def loader(bundle: Path, sealed: SealedEngine) -> Callable[[], Session]:
    """What opens the engine of a bundle."""
    return lambda: open_session(
        bundle / sealed.engine_file,
        sealed.profile,
        backend=sealed.backend,
        precision=sealed.precision,
    )


def noise(profile: DeviceProfile) -> Images:
    """One image of the profile's size, (1, 3, S, S) in [-1, 1]; the same every time."""
    shape = (1, 3, profile.image_size, profile.image_size)
    return np.random.default_rng(0).random(shape, dtype=np.float32) * 2 - 1


def over_budget(report: LatencyReport, budget: LatencyBudget, memory_mib: int) -> list[str]:
    """Where a report breaks its profile's promise, one sentence each.

    The 99 % bound must be within the budget, not only the estimate: a promise is to be shown. A
    percentile without enough samples is not judged.
    """
    reasons = []
    for name, limit in budget:
        short = name.removesuffix("_ms")
        got: Percentile | None = getattr(report, short)
        if got is None:
            continue
        if got.value_ms > limit:
            reasons.append(f"{short} is {got.value_ms:.2f} ms, the budget is {limit:g} ms")
        elif got.upper_ms > limit:
            reasons.append(
                f"{short} is {got.value_ms:.2f} ms but may be {got.upper_ms:.2f} ms, the budget is "
                f"{limit:g} ms: measure longer (--mode normal) or on a quieter machine"
            )
    if report.peak_rss_mib > memory_mib:
        reasons.append(
            f"peak memory is {report.peak_rss_mib:.0f} MiB, the budget is {memory_mib} MiB"
        )
    return reasons
