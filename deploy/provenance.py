"""Where a bundle comes from: digests, versions, the machine, and whether that is still so."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from deploy.artifacts import EXPORT, Bundle, StudentExport
from devices.machine import installed_versions, this_machine
from devices.profile import DeviceProfile
from devices.sealed import BundleError, digest

PACKAGES = ("pocketgan", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf")

ROOT = Path(__file__).parents[1]
"""The checkout, where the program runs from one."""
GIT_PATIENCE_S = 10.0

NEIGHBOURS = "neighbours"
"""Key of what other processes took while a bundle was measured."""


def versions() -> dict[str, str]:
    """Versions of what a bundle is made with."""
    return {"python": platform.python_version()} | installed_versions(PACKAGES)


def inputs(export: StudentExport) -> dict[str, str]:
    """Digests of what a bundle is made from: those of the export, and the export's own."""
    return export.manifest.lineage | {"export": f"sha256:{digest(export.path / EXPORT)}"}


def lineage(
    export: StudentExport, *, quantization_sha256: str | None, engine_sha256: str
) -> dict[str, str]:
    """Where an engine comes from, in order: teacher, recipe, student, export, INT8 graph, engine.

    Args:
        export: The student.
        quantization_sha256: Of the quantized ONNX graph that the engine was compiled from; None
            for a float engine.
        engine_sha256: Of the file that a session opens.

    Returns:
        Digests with the algorithm before them, and under ``git`` the commit of the program where it
        ran from a checkout.
    """
    steps = {"quantization": quantization_sha256, "engine": engine_sha256}
    made = {name: f"sha256:{value}" for name, value in steps.items() if value is not None}
    commit = git_commit()
    return inputs(export) | made | ({} if commit is None else {"git": commit})


def git_commit(root: Path = ROOT) -> str | None:
    """The commit that is checked out at ``root``, with ``+dirty`` where tracked files differ.

    None where ``root`` is not the top of a checkout (a wheel, say, even one installed inside the
    checkout of something else) or where git is not installed.
    """
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+dirty" if changes else commit


def _git(root: Path, *words: str) -> str:
    # a read takes no lock: it must not make a commit in another window fail
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=GIT_PATIENCE_S, check=True
    )
    return ran.stdout.strip()


def machine_facts() -> dict[str, str]:
    """What stays of this machine from one day to the next, for the manifest."""
    machine = this_machine()
    facts = {
        "fingerprint": machine.fingerprint(),
        "cpu": machine.cpu,
        "cores": str(machine.cores),
        "architecture": machine.architecture,
        "board": machine.board,
        "power_mode": machine.power_mode,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def up_to_date(
    out: Path, export: StudentExport, profile: DeviceProfile, *, compiled: bool
) -> Bundle | None:
    """The bundle at ``out`` if making it again would change nothing but the noise in latencies."""
    try:
        bundle = Bundle.read(out)
    except BundleError:
        return None
    same = (
        inputs(export).items() <= bundle.manifest.lineage.items()
        and bundle.manifest.profile == profile
        and bundle.manifest.versions == versions()
        and bundle.manifest.compiled == compiled
        # another machine's latencies, and perhaps another machine's fastest engine
        and (not compiled or _without_neighbours(bundle.manifest.machine) == machine_facts())
    )
    return bundle if same else None


def _without_neighbours(machine: dict[str, str]) -> dict[str, str]:
    return {name: fact for name, fact in machine.items() if name != NEIGHBOURS}
