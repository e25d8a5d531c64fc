"""Measure one bundle once, in a process of its own, and print one line of JSON.

python -m devices.measure_once BUNDLE STARTED_NS [--work UNITS]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from devices.check import loader, noise, ready
from devices.gate.report import Once
from devices.gate.work import Laden
from devices.latency import Mode, measure, peak_rss_mib
from devices.session import DeviceError, Session

MODE = Mode(min_samples=16, min_seconds=0.2, max_seconds=60)
"""Short: the median of a round is soon steady, and it is rounds that a verdict needs."""

WARMUP_SECONDS = 0.1

ROOT = str(Path(__file__).resolve().parents[1])
"""Where this code is, which must be what runs in the other process too."""

TIME_LIMIT_S = 900
"""Building a TensorRT engine on a small board takes minutes."""


def once(bundle: Path, started_ns: int, work: int = 0) -> Once:
    """Measure a bundle in this process.

    Args:
        bundle: The bundle.
        started_ns: When this process was started, by ``time.monotonic_ns`` of this machine.
        work: Products of small matrices to do beside each image (`devices.gate.work`).

    Raises:
        BundleError: The bundle is damaged, or not compiled yet.
        DeviceError: This machine is not the one it was compiled for.
    """
    sealed, machine = ready(bundle)
    load = loader(bundle, sealed)

    def laden() -> Session:
        return Laden(load(), work) if work else load()

    images = noise(sealed.profile)
    before_ms = (time.monotonic_ns() - started_ns) / 1e6
    timing = measure(laden, images, MODE, warmup_seconds=WARMUP_SECONDS)
    return Once(
        machine=machine,
        cold_ms=before_ms + timing.load_ms + timing.first_ms,
        load_ms=timing.load_ms,
        first_ms=timing.first_ms,
        samples_ms=timing.samples_ms,
        peak_rss_mib=peak_rss_mib(),
    )


def in_fresh_process(
    bundle: Path, *, work: int = 0, python: str = sys.executable, paths: Sequence[str] = (ROOT,)
) -> Once:
    """Measure a bundle in a new Python process.

    Args:
        bundle: The bundle.
        work: Extra work beside each image, see `once`.
        python: The interpreter.
        paths: Where it looks for this code first, rather than in what is installed beside it.

    Raises:
        DeviceError: It failed there; the message is what it said.
    """
    path = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [python, "-P", "-m", "devices.measure_once", str(bundle)]
    try:
        done = subprocess.run(
            [*command, str(time.monotonic_ns()), "--work", str(work)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise DeviceError(f"measuring {bundle} took over {TIME_LIMIT_S} s; is it hung?") from late
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode != 0:
        raise DeviceError(f"measuring {bundle} failed with status {done.returncode}: {last}")
    try:
        return Once.model_validate_json(done.stdout)
    except ValidationError as error:
        raise DeviceError(f"measuring {bundle} printed no measurement: {last}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Print the measurement, or why there is none; return the exit status."""
    parser = argparse.ArgumentParser(prog="devices.measure_once", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("started_ns", type=int)
    parser.add_argument("--work", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        measured = once(args.bundle, args.started_ns, args.work)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(measured.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # what was measured is told; taking the runtime apart takes a tenth as long
