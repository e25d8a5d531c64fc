"""What the bottom of the building must know of a bundle: its digests and its engine.

``deploy.artifacts`` describes a bundle in full and writes it; measuring one needs far less,
and must work on a board where nothing of ``deploy`` is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from devices.profile import Backend, DeviceProfile, Precision, explain

if TYPE_CHECKING:
    from devices.signature import TrustedKeys

MANIFEST = "manifest.json"
SEAL = ".sha256"
"""After the name of a face: the file of its own digest."""
SIGNATURE = ".sig"
"""After the name of a face: the file of its signature."""
MAX_FACE_BYTES = 8 * 2**20
"""A face larger than this is not read: those there are have a few KiB."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""A file of a sealed folder: no path, nothing hidden, nothing that needs quoting."""


class BundleError(ValueError):
    """A bundle or export is damaged, incomplete or of a kind that this version cannot read."""


class SealedEngine(BaseModel):
    """The part of ``manifest.json`` that a stopwatch needs; the rest is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int
    engine_file: str
    compiled: bool
    backend: Backend
    precision: Precision
    profile: DeviceProfile
    sha256: dict[str, str]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_digests(folder: Path, sha256: Mapping[str, str]) -> None:
    """Check that each named file is there and is the one that was sealed.

    Raises:
        BundleError: A file is missing, differs from its digest, or lies outside the folder.
    """
    for name, expected in sha256.items():
        path = folder / name
        if not PLAIN_NAME.fullmatch(name) or path.is_symlink():
            raise BundleError(f"{folder}: {name!r} is not a plain file name of this folder")
        if not path.is_file():
            raise BundleError(f"{path} is missing; make the bundle again with pocketgan deploy")
        if digest(path) != expected:
            raise BundleError(
                f"{path} does not match its digest in {MANIFEST}; copy or make the bundle again"
            )


def no_strangers(folder: Path, sha256: Mapping[str, str], name: str = MANIFEST) -> None:
    """Check that a sealed folder holds nothing but what its face names.

    A runtime may open files beside the engine by itself (weights, a cache), and those would be
    files that nobody checked.

    Raises:
        BundleError: Another file or folder is there; the message names it.
    """
    known = {*sha256, name, f"{name}{SEAL}", f"{name}{SIGNATURE}"}
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            raise BundleError(f"{path} is no file of the bundle; move it elsewhere")


def read_json(folder: Path, name: str = MANIFEST) -> str:
    """The text of a folder's JSON face, checked against the digest file beside it.

    ``manifest.json`` holds the digests of every other file; ``manifest.json.sha256`` holds its own,
    so that a flipped byte anywhere is noticed.

    Raises:
        BundleError: There is no such folder or file, or it is not the one that was sealed.
    """
    face = folder / name
    seal = folder / f"{name}{SEAL}"
    for path in (face, seal):
        if not path.is_file():
            raise BundleError(f"{path} is missing: {folder} is not a complete bundle or export")
        if path.is_symlink() or path.stat().st_size > MAX_FACE_BYTES:
            raise BundleError(
                f"{path} is a link or has more than {MAX_FACE_BYTES} bytes; copy or make it again"
            )
    if seal.read_bytes() != seal_text(digest(face), name).encode():
        raise BundleError(f"{face} does not match {seal.name}; copy or make it again")
    return face.read_text()


def seal_text(sha256: str, name: str) -> str:
    """The line that ``sha256sum --check`` reads."""
    return f"{sha256}  {name}\n"


def read_sealed(folder: Path, trusted: TrustedKeys | None = None) -> SealedEngine:
    """Read what a stopwatch needs of a bundle, after checking every digest.

    Args:
        folder: The bundle.
        trusted: If given, one of these keys must have signed it, and no file may be in the folder
            that the manifest does not name.

    Raises:
        BundleError: Not a bundle, damaged, of a schema that this version cannot read, or not signed
            as it must be.
    """
    if trusted is not None:
        trusted.verify(folder)
    text = read_json(folder)
    try:
        schema = json.loads(text).get("schema_version")
        if schema != 1:
            raise BundleError(f"{folder / MANIFEST} has schema_version {schema}; this reads 1")
        sealed = SealedEngine.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST}: {explain(error, SealedEngine)}") from error
    verify_digests(folder, sealed.sha256)
    if trusted is not None:
        no_strangers(folder, sealed.sha256)
    if sealed.engine_file not in sealed.sha256:
        raise BundleError(f"{folder / MANIFEST} has no digest of its engine {sealed.engine_file}")
    return sealed
