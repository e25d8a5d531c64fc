"""Measure one bundle once, in a process of its own, and print one line of JSON.

python -m devices.measure_once BUNDLE
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from devices.check import loader, noise, ready
from devices.gate import Once
from devices.latency import Mode, measure
from devices.session import DeviceError

MODE = Mode(min_samples=16, min_seconds=0.5, max_seconds=60)
"""Short: the median of a round is soon steady, and it is rounds that a verdict needs."""

TIME_LIMIT_S = 900
"""Building a TensorRT engine on a small board takes minutes."""


def once(bundle: Path) -> Once:
    """Measure a bundle in this process.

    Raises:
        BundleError: The bundle is damaged, or not compiled yet.
        DeviceError: This machine is not the one it was compiled for.
    """
    sealed, machine = ready(bundle)
    timing = measure(loader(bundle, sealed), noise(sealed.profile), MODE)
    return Once(machine=machine, samples_ms=timing.samples_ms)


def in_fresh_process(bundle: Path) -> Once:
    """Measure a bundle in a new Python process.

    Raises:
        DeviceError: It failed there; the message is what it said.
    """
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]  # this code, not another copy
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "devices.measure_once", str(bundle)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
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
    bundle = parser.parse_args(argv).bundle
    try:
        measured = once(bundle)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(measured.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
