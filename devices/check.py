"""Measure a bundle on this machine; `devices.budget` holds the figures against its profile."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from devices.latency import MODES, LatencyReport, ModeName, measure, peak_rss_mib
from devices.machine import Machine, available, this_machine
from devices.percentiles import percentile
from devices.profile import DeviceProfile
from devices.sealed import BundleError, SealedEngine, read_sealed
from devices.session import DeviceError, Images, Session, open_session
from devices.telemetry.conditions import Conditions

PERCENTILES = (50, 90, 95, 99)


ColdStart = Callable[[Path], float]
"""Starts a fresh process for a bundle; milliseconds from there to the end of its first image."""


class Watching(AbstractContextManager[object], Protocol):
    """Looks at the machine between its enter and its exit (`devices.telemetry.watch.Watch`)."""

    def conditions(self) -> Conditions:
        """What it saw."""
        ...


def measure_bundle(
    bundle: Path,
    mode: ModeName = "fast",
    *,
    cold_start: ColdStart,
    watch: Watching,
    on_phase: Callable[[str], None] = lambda words: None,
    sleep: Callable[[float], None] = time.sleep,
) -> LatencyReport:
    """Measure a bundle on this machine: cold starts, a pause, and then a single stream.

    Args:
        bundle: The bundle.
        mode: How long.
        cold_start: Measures one start; the processes come before anything is loaded here.
        watch: Looks at the machine during the single stream.
        on_phase: Told in words what comes next.
        sleep: Waits so many seconds.

    Raises:
        BundleError: The bundle is damaged, or not compiled yet.
        DeviceError: This machine is not the one it was compiled for, or a fresh process failed.
    """
    sealed, machine = ready(bundle)
    started_at = datetime.now(UTC)
    chosen = MODES[mode]
    if chosen.cold_starts:
        on_phase(f"{chosen.cold_starts} cold starts, each in a fresh process")
    cold_ms = tuple(cold_start(bundle) for _ in range(chosen.cold_starts))
    if chosen.cooldown_s:
        on_phase(f"{chosen.cooldown_s:g} s to cool down")
        sleep(chosen.cooldown_s)
    on_phase("load, first image, warm-up, then one image after the other")
    timing = measure(loader(bundle, sealed), noise(sealed.profile), chosen, beside=lambda: watch)
    p50, p90, p95, p99 = (percentile(timing.samples_ms, percent) for percent in PERCENTILES)
    return LatencyReport(
        machine=machine,
        fingerprint=machine.fingerprint(),
        engine_sha256=sealed.sha256[sealed.engine_file],
        profile=sealed.profile.name,
        backend=sealed.backend,
        precision=sealed.precision,
        image_size=sealed.profile.image_size,
        mode=mode,
        cold_ms=cold_ms,
        load_ms=timing.load_ms,
        first_ms=timing.first_ms,
        samples_ms=timing.samples_ms,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        peak_rss_mib=peak_rss_mib(),
        conditions=watch.conditions(),
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
