"""Where a bundle comes from: digests, versions, the machine, and whether that is still so."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from deploy.artifacts import EXPORT, Bundle, StudentExport
from devices.machine import this_machine
from devices.profile import DeviceProfile
from devices.sealed import BundleError, digest

PACKAGES = ("pocketgan", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf")

NEIGHBOURS = "neighbours"
"""Key of what other processes took while a bundle was measured."""


def versions() -> dict[str, str]:
    """Versions of what a bundle is made with."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def lineage(export: StudentExport) -> dict[str, str]:
    """Digests of what a bundle is made from: those of the export, and the export's own."""
    return export.manifest.lineage | {"export": f"sha256:{digest(export.path / EXPORT)}"}


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
        bundle.manifest.lineage == lineage(export)
        and bundle.manifest.profile == profile
        and bundle.manifest.versions == versions()
        and bundle.manifest.compiled == compiled
        # another machine's latencies, and perhaps another machine's fastest engine
        and (not compiled or _without_neighbours(bundle.manifest.machine) == machine_facts())
    )
    return bundle if same else None


def _without_neighbours(machine: dict[str, str]) -> dict[str, str]:
    return {name: fact for name, fact in machine.items() if name != NEIGHBOURS}
