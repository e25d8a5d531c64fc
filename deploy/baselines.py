"""Accepted bundles, kept in a folder: a checkout, an artifact of CI or a network drive.

``STORE/NAME/DEVICE/accepted.json`` names the accepted bundle, which lies beside it in a folder that
its digest names. That file is replaced in one step and points only to what is there already, so a
reader finds the old bundle or the new one, whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from devices.profile import Frozen, explain
from devices.sealed import MANIFEST, PLAIN_NAME, BundleError, digest, read_sealed

PREFIX = "store:"
"""Before the name of a job where a baseline could stand."""

ACCEPTED = "accepted.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Accepted(Frozen):
    """``accepted.json``: which bundle is the baseline of a job on a device.

    Attributes:
        name: The job.
        device: Name of the device profile.
        sha256: Digest of the bundle's manifest, which holds those of its other files.
        accepted_at: When it was accepted.
        before: Digest of the one that was accepted before it, which is kept too; None at first.
    """

    schema_version: Literal[1] = 1
    name: str
    device: str
    sha256: Sha256
    accepted_at: AwareDatetime
    before: Sha256 | None = None


@dataclass(frozen=True)
class Store:
    """A folder of accepted bundles, one for each job and device.

    Attributes:
        root: The folder; made with the first bundle that is accepted.
    """

    root: Path

    def accepted(self, name: str, device: str) -> Accepted | None:
        """What is known of the baseline; None where nothing was accepted yet.

        Raises:
            ValueError: A name is no plain one, or ``accepted.json`` is not one.
        """
        path = self._folder(name, device) / ACCEPTED
        if not path.is_file():
            return None
        try:
            return Accepted.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path}: {explain(error, Accepted)}; delete it and accept a bundle again"
            ) from error

    def baseline(self, name: str, device: str) -> Path | None:
        """The folder of the accepted bundle; None where nothing was accepted yet.

        Raises:
            BundleError: The bundle is gone, damaged, or not the one that was accepted.
            ValueError: As `accepted`.
        """
        accepted = self.accepted(name, device)
        if accepted is None:
            return None
        bundle = self._folder(name, device) / accepted.sha256
        read_sealed(bundle)
        found = digest(bundle / MANIFEST)
        if found != accepted.sha256:
            raise BundleError(
                f"{bundle} has the digest {found}, not that of the bundle that was accepted; "
                "accept one again"
            )
        return bundle

    def accept(self, name: str, candidate: Path) -> Accepted:
        """Keep a bundle as the baseline from now on; the one before stays beside it.

        Raises:
            BundleError: The candidate is damaged.
            ValueError: As `accepted`.
            OSError: The store cannot be written; what was accepted is as it was.
        """
        device = read_sealed(candidate).profile.name
        folder = self._folder(name, device)
        old = self.accepted(name, device)
        sha256 = digest(candidate / MANIFEST)
        if old is not None and old.sha256 == sha256 and (folder / sha256).is_dir():
            return old
        folder.mkdir(parents=True, exist_ok=True)
        _copy(candidate, folder / sha256)
        new = Accepted(
            name=name,
            device=device,
            sha256=sha256,
            accepted_at=datetime.now(UTC),
            before=old.sha256 if old else None,
        )
        _replace(folder / ACCEPTED, new.model_dump_json(indent=2) + "\n")
        # only what this very step put out of use: another may be accepting at the same time
        if old is not None and old.before not in (None, new.sha256, new.before):
            shutil.rmtree(folder / str(old.before), ignore_errors=True)
        return new

    def _folder(self, name: str, device: str) -> Path:
        for part in (name, device):
            if not PLAIN_NAME.fullmatch(part):
                raise ValueError(
                    f"{part!r} cannot name a folder of the store {self.root}; "
                    "use letters, digits, '.', '_' and '-'"
                )
        return self.root / name / device


def _copy(bundle: Path, to: Path) -> None:
    """Copy a bundle to a folder that is there whole or not at all."""
    working = Path(tempfile.mkdtemp(prefix=".copy-", dir=to.parent))
    try:
        shutil.copytree(bundle, working / "bundle")
        read_sealed(working / "bundle")
        (working / "bundle").chmod(0o755)
        if to.exists():  # by the same digest, so the same, unless it was damaged since
            os.replace(to, working / "old")
        os.replace(working / "bundle", to)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _replace(path: Path, text: str) -> None:
    """Write a file in one step."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    working = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        working.chmod(0o644)
        os.replace(working, path)
    except BaseException:
        working.unlink(missing_ok=True)
        raise
