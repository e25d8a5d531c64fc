"""The bill of materials of a bundle: which packages made it, which run it, which files it is.

CycloneDX 1.6 as JSON, written by hand: what a bundle needs of it is six kinds of keys, and the
library for it would bring seven more packages to every place that deploys.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.manifests import Manifest
from deploy.provenance import PACKAGES
from devices.profile import Backend
from devices.sealed import digest

RUNTIMES: dict[Backend, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
}
SERVING = ("pocketgan", "numpy", "pydantic", "pillow")
"""What runs beside the runtime whatever it is."""
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/docs/1.6/")
LONGEST_LICENSE = 60
"""Some packages put the whole text where its name belongs; that is no name."""


def sbom(face: Manifest, files: Sequence[Path]) -> str:
    """The text of ``sbom.cdx.json`` for a bundle that is being made.

    Packages that run the engine have scope ``required``, packages that only made it ``excluded``.
    A package that is not installed here is not listed: its version is not known. The same packages
    and files give the same text.

    Args:
        face: Its manifest; digests may still be missing.
        files: The engine's files.
    """
    model, backend = face.model, face.backend
    runs = {*SERVING, *RUNTIMES[backend]}
    packages = sorted({*PACKAGES, *runs})
    components = [
        {
            "type": "platform",
            "bom-ref": "python",
            "name": platform.python_implementation(),
            "version": platform.python_version(),
            "scope": "required",
        },
        *filter(None, (_package(name, required=name in runs) for name in packages)),
        *(_file(path) for path in sorted(files)),
    ]
    needs = [str(one["bom-ref"]) for one in components if one.get("scope") != "excluded"]
    content: dict[str, Any] = {
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": model.name,
                "description": f"{model.family} generator, {model.task}, run by {backend}",
            }
        },
        "components": components,
        "dependencies": [{"ref": "model", "dependsOn": needs}],
    }
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # of the content: another time or another run is no other bill
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True))}",
        "version": 1,
        **content,
    }
    return json.dumps(bill, indent=2) + "\n"


def _package(name: str, *, required: bool) -> dict[str, Any] | None:
    try:
        facts = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    version = facts["Version"]
    purl = f"pkg:pypi/{name}@{version}"
    license_ = _license(facts)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "scope": "required" if required else "excluded",
        **({} if license_ is None else {"licenses": [license_]}),
        "purl": purl,
    }


def _license(facts: metadata.PackageMetadata) -> dict[str, Any] | None:
    """What a package says of its licence, in the newest of the three places there are for it."""
    if "License-Expression" in facts:
        return {"expression": facts["License-Expression"]}
    said = str(facts.get("License", ""))  # type: ignore[attr-defined]  # an email.message.Message
    if not said or len(said) > LONGEST_LICENSE or "\n" in said:
        classifiers = facts.get_all("Classifier") or []
        names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
        said = ", ".join(names)
    return {"license": {"name": said}} if said else None


def _file(path: Path) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": path.name,
        "name": path.name,
        "hashes": [{"alg": "SHA-256", "content": digest(path)}],
        "scope": "required",
    }
