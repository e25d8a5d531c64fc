"""Two revisions of this code measure the same bundle: is what runs the engine slower now?"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.gate.report import Once
from devices.gate.rounds import Measure
from devices.measure_once import in_fresh_process
from devices.session import DeviceError

PREFIX = "rev:"
"""Before the name of a revision where a bundle could stand."""

TIME_LIMIT_S = 300

Run = Callable[..., Once]
"""`devices.measure_once.in_fresh_process`, or what a test puts in its place."""


@dataclass(frozen=True)
class Installed:
    """The wheel of a revision, in a folder of its own.

    Attributes:
        revision: As it was asked for.
        commit: What that was.
        folder: Where the wheel was unpacked: on Python's path it is found before what is installed.
    """

    revision: str
    commit: str
    folder: Path


def install(revision: str, out: Path, repository: Path = Path()) -> Installed:
    """Build the wheel of a revision and install it in a folder, without network.

    A wheel, not the checkout: what is measured is what users would install.

    Args:
        revision: A branch, tag or commit.
        out: An empty folder.
        repository: The checkout, or any folder in it.

    Raises:
        ValueError: There is no such revision, or its wheel cannot be built; the message says what
            the tool said.
    """
    git = ("git", "-C", str(repository))
    named = f"{revision}^{{commit}}"
    try:
        commit = _run([*git, "rev-parse", "--verify", "--quiet", "--end-of-options", named])
    except ValueError as error:
        raise ValueError(
            f"there is no revision {revision!r} in {repository.resolve()} ({error}); "
            "fetch it (git fetch origin REVISION), or check the name"
        ) from error
    source, wheels, installed = out / "source", out / "wheels", out / "installed"
    _run([*git, "archive", "--format=tar", f"--output={out / 'source.tar'}", commit])
    with tarfile.open(out / "source.tar") as archive:
        archive.extractall(source, filter="data")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
    try:
        # what builds it is here already: a gate must not wait for a package index
        build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels))
        _run([*pip, *build, str(source)])
        (wheel,) = wheels.glob("*.whl")
        _run([*pip, "install", "--no-deps", "--target", str(installed), str(wheel)])
    except ValueError as error:
        raise ValueError(
            f"revision {revision} ({commit[:12]}) cannot be built ({error}); "
            "building needs hatchling: pip install hatchling"
        ) from error
    return Installed(revision, commit, installed)


def measure_with(revisions: Mapping[Path, Installed], run: Run = in_fresh_process) -> Measure:
    """What measures each bundle with the code of its revision.

    Args:
        revisions: By the folder of the bundle, which each has a copy of.
        run: Measures a bundle in a fresh process.
    """

    def measure(bundle: Path) -> Once:
        return run(bundle, paths=(str(revisions[bundle].folder),))

    return measure


def try_out(revisions: Mapping[Path, Installed], measure: Measure) -> None:
    """Measure each once, so that what cannot be measured is told before the rounds begin.

    Raises:
        ValueError: A revision does not know how this gate measures, or fails.
    """
    for bundle, installed in revisions.items():
        try:
            measure(bundle)
        except DeviceError as error:
            raise ValueError(
                f"revision {installed.revision} ({installed.commit[:12]}) cannot be measured: "
                f"{error}; where it is older than this gate's way to measure, compare bundles, "
                "or a newer revision"
            ) from error


def _run(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        ValueError: It failed; the message is the last thing it said.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
        )
    except FileNotFoundError as error:
        raise ValueError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{command[0]} took over {TIME_LIMIT_S} s") from error
    if done.returncode != 0:
        raise ValueError(_said(done.stderr) or f"{command[0]} ended with status {done.returncode}")
    return done.stdout.strip()


def _said(stderr: str) -> str:
    """The line that tells: of pip's many that is not the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return [*lines[-1:], *errors][-1] if lines else ""
