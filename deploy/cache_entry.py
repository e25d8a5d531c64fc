"""One engine in the engine cache: its face, and whether every byte is as it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeFloat, ValidationError

from deploy.cache_key import SHORT, EngineKey
from devices.profile import Frozen
from devices.sealed import digest, seal_text

FACE = "key.json"
SEAL = f"{FACE}.sha256"
ENGINE = "engine"
"""Sub-folder with the files that a compiler wrote."""


class Face(Frozen):
    """The face of an entry (``key.json``).

    Attributes:
        key: What the engine depends on.
        name: What the model is called, for people.
        engine_file: The file that a session opens.
        build_seconds: What building it took, and a hit saves.
        built_at: Seconds since 1970.
        sha256: Digest of every file.
    """

    key: EngineKey
    name: str
    engine_file: str
    build_seconds: NonNegativeFloat
    built_at: float
    sha256: dict[str, str]


@dataclass(frozen=True)
class Entry:
    """What lies in the cache under one key.

    Attributes:
        digest: Of the key; the folder's name.
        path: The folder.
        face: None where it cannot be read, or is of another version of pocketgan.
        bytes: On disk.
        used_at: When it was last built or asked for, in seconds since 1970.
    """

    digest: str
    path: Path
    face: Face | None
    bytes: int
    used_at: float


def read_entry(path: Path) -> Entry:
    """Look at an entry without checking its digests.

    Raises:
        FileNotFoundError: It was removed meanwhile.
    """
    face = path / FACE
    read, used_at = None, path.stat().st_mtime
    try:
        read = Face.model_validate_json(face.read_bytes())
        used_at = face.stat().st_mtime
    except (OSError, ValidationError):
        pass
    files = [file for file in path.rglob("*") if file.is_file()]
    return Entry(path.name, path, read, sum(file.stat().st_size for file in files), used_at)


def damage(entry: Entry) -> str | None:
    """What is wrong with an entry, naming the file; None where every byte is as it was."""
    face = entry.path / FACE
    try:
        if (entry.path / SEAL).read_bytes() != seal_text(digest(face), FACE).encode():
            return f"{face} does not match {SEAL}"
        if entry.face is None or entry.face.key.digest != entry.digest:
            return f"{face} is not the key of {entry.digest[:SHORT]} in this version of pocketgan"
        for name, sha256 in entry.face.sha256.items():
            file = entry.path / ENGINE / name
            if Path(name).name != name:
                return f"{face} names {name!r}, which is no plain file name"
            if digest(file) != sha256:
                return f"{file} does not match its digest"
        if entry.face.engine_file not in entry.face.sha256:
            return f"{face} has no digest of its engine {entry.face.engine_file}"
    except OSError as error:
        return f"{error.filename or entry.path}: {error.strerror}"
    return None
