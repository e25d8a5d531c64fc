"""What travels between the rooms, as directories with a JSON face.

``compress`` writes a `StudentExport`, ``deploy`` reads it and writes a `Bundle`, ``serving`` and
``devices`` read that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import ValidationError

from deploy.imaging import Pixels
from deploy.manifests import EVIDENCE, SCHEMA_VERSION, ExportManifest, Manifest
from devices.profile import explain
from devices.sealed import (
    MANIFEST,
    BundleError,
    digest,
    no_strangers,
    read_json,
    verify_digests,
)

if TYPE_CHECKING:
    from devices.signature import TrustedKeys

EXPORT = "export.json"
LPIPS = "lpips.onnx"
"""In an export: distances of images, for judges that have no torch."""
SBOM = "sbom.cdx.json"
"""In a bundle: the packages that made and that run its engine, as CycloneDX."""


@dataclass(frozen=True)
class StudentExport:
    """A sealed directory: the float student as ONNX and what quantizing it takes."""

    path: Path
    manifest: ExportManifest

    @property
    def model(self) -> Path:
        """The float student, dynamic in height and width."""
        return self.path / "student.onnx"

    @property
    def golden(self) -> Path:
        """The golden pairs."""
        return self.path / "golden.npz"

    @property
    def lpips(self) -> Path | None:
        """LPIPS as an ONNX model, where the export has one."""
        return self.path / LPIPS if LPIPS in self.manifest.sha256 else None

    def calibration(self) -> Pixels:
        """Inputs to calibrate with, (N, H, W, 3)."""
        with np.load(self.path / "calibration.npz", allow_pickle=False) as arrays:
            return np.asarray(arrays["source"], dtype=np.uint8)

    @classmethod
    def read(cls, path: Path) -> StudentExport:
        """Open an export and check every digest.

        Raises:
            BundleError: Not an export, or damaged; the message names the file.
        """
        manifest = _parse(ExportManifest, path, EXPORT)
        _require(path, EXPORT, manifest.sha256, ("student.onnx", "calibration.npz", "golden.npz"))
        verify_digests(path, manifest.sha256)
        return cls(path, manifest)


@dataclass(frozen=True)
class Bundle:
    """A sealed directory: one engine, for one device, with its manifest."""

    path: Path
    manifest: Manifest

    @property
    def engine(self) -> Path:
        """The file a session opens."""
        return self.path / self.manifest.engine_file

    @property
    def golden(self) -> Path:
        """The golden pairs."""
        return self.path / "golden.npz"

    @property
    def evidence(self) -> Path | None:
        """What the manifest's numbers were computed from, where the bundle has it."""
        return self.path / EVIDENCE if EVIDENCE in self.manifest.sha256 else None

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the digest of every other file."""
        return digest(self.path / MANIFEST)

    @classmethod
    def read(cls, path: Path, trusted: TrustedKeys | None = None) -> Bundle:
        """Open a bundle and check every digest; nothing of it is loaded.

        Args:
            path: Its folder.
            trusted: If given, one of these keys must have signed it, and no file may be in the
                folder that the manifest does not name.

        Raises:
            BundleError: Not a bundle, damaged, or not signed as it must be; the message names the
                file.
        """
        if trusted is not None:
            trusted.verify(path)
        manifest = _parse(Manifest, path, MANIFEST)
        _require(path, MANIFEST, manifest.sha256, (manifest.engine_file, "golden.npz"))
        verify_digests(path, manifest.sha256)
        if trusted is not None:
            no_strangers(path, manifest.sha256)
        return cls(path, manifest)


Face = TypeVar("Face", ExportManifest, Manifest)


def _parse(face: type[Face], folder: Path, name: str) -> Face:
    text = read_json(folder, name)
    schema = json.loads(text).get("schema_version")
    if schema != SCHEMA_VERSION:
        raise BundleError(
            f"{folder / name} has schema_version {schema}; this pocketgan reads {SCHEMA_VERSION}"
        )
    try:
        return face.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{folder / name}: {explain(error, face)}") from error


def _require(folder: Path, face: str, sha256: dict[str, str], names: tuple[str, ...]) -> None:
    """A file without a digest is a file nobody checked."""
    for name in names:
        if name not in sha256:
            raise BundleError(f"{folder / face} has no digest for {name!r}; make it again")
