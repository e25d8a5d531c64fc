"""What travels: archives of sealed folders there, a wheel, and a finished bundle back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from devices.profile import DeviceProfile
from devices.remote.words import BoardError, one_line
from devices.sealed import (
    MANIFEST,
    PLAIN_NAME,
    SEAL,
    SIGNATURE,
    BundleError,
    SealedEngine,
    digest,
    read_json,
    verify_digests,
)

EXPORT = "export.json"
ROOT = Path(__file__).parents[2]
WHEEL = re.compile(r"pocketgan-([A-Za-z0-9._+!]+)-py3-none-any\.whl")
MAX_FETCH_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Parcel:
    """Files to copy, as an archive.

    Attributes:
        name: The folder they will lie in on the board.
        archive: The archive here.
        sha256: What must arrive, by file name.
    """

    name: str
    archive: Path
    sha256: dict[str, str]

    @property
    def mib(self) -> float:
        """How large it is, in MiB."""
        return self.archive.stat().st_size / 2**20


def pack(name: str, files: Iterable[Path], work: Path) -> Parcel:
    """Put files into an archive ``work/NAME.tar``, without owner, times or folders."""
    archive = work / f"{name}.tar"
    sha256 = {}
    with tarfile.open(archive, "w") as tar:
        for path in sorted(files):
            with path.open("rb") as content:
                entry = tarfile.TarInfo(path.name)
                entry.size = path.stat().st_size
                tar.addfile(entry, content)
            sha256[path.name] = digest(path)
    return Parcel(name, archive, sha256)


def pack_bundle(bundle: Path, sealed: SealedEngine, work: Path) -> Parcel:
    """The files of a bundle, and none that its manifest does not name."""
    face = (MANIFEST, f"{MANIFEST}{SEAL}", f"{MANIFEST}{SIGNATURE}")
    names = [*sealed.sha256, *(name for name in face if (bundle / name).is_file())]
    return pack("bundle", (bundle / name for name in names), work)


def pack_export(export: Path, bundle: Path, profile: DeviceProfile, work: Path) -> Parcel:
    """The files of the export that a bundle was made of, and the profile to finish it for.

    Raises:
        BundleError: Not an export, damaged, or not the one of the bundle.
    """
    sha256 = json.loads(read_json(export, EXPORT)).get("sha256", {})
    verify_digests(export, sha256)
    made_of = json.loads(read_json(bundle)).get("lineage", {}).get("export")
    if made_of != f"sha256:{digest(export / EXPORT)}":
        raise BundleError(
            f"{bundle} was not made of {export}; give the export it was made of, or deploy it again"
        )
    described = work / "profile.toml"
    described.write_text(as_toml(json.loads(profile.model_dump_json(exclude_none=True))))
    names = [*sha256, EXPORT, f"{EXPORT}{SEAL}"]
    return pack("export", [described, *(export / name for name in names)], work)


def as_toml(values: dict[str, object]) -> str:
    """Write a table that came from JSON; inner tables on one line."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(each) for each in value)}]"
    return json.dumps(value)  # strings, numbers and booleans are written alike


def unpack_bundle(archive: Path, out: Path, names: set[str], most_bytes: int) -> None:
    """Take the files of a bundle out of an archive that nobody vouches for, into a new folder.

    Args:
        archive: As the board sent it.
        out: Where to; must not exist.
        names: The files it may hold; what is in them is for the caller to check.
        most_bytes: Of all files together.

    Raises:
        BoardError: It holds anything else, or too much.
    """
    out.mkdir()
    left = most_bytes
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isreg() else None
                left -= entry.size
                if content is None or entry.name not in names or left < 0:
                    raise BoardError(
                        f"it sent {one_line(entry.name)!r}, which is not of the bundle"
                    )
                if not PLAIN_NAME.fullmatch(entry.name) or (out / entry.name).exists():
                    raise BoardError(f"it sent {one_line(entry.name)!r}, no plain new file name")
                with (out / entry.name).open("xb") as file:
                    while chunk := content.read(1 << 20):
                        file.write(chunk)
    except tarfile.TarError as error:
        raise BoardError(f"it sent a bundle that is no archive: {one_line(str(error))}") from None


def own_version() -> str:
    """The version of the pocketgan that this is."""
    return metadata.version("pocketgan")


def wheel_version(wheel: Path) -> str:
    """The version of a wheel of pocketgan, from its name.

    Raises:
        ValueError: It is none.
    """
    found = WHEEL.fullmatch(wheel.name)
    if found is None or not wheel.is_file():
        raise ValueError(
            f"{wheel} is no wheel of pocketgan (pocketgan-VERSION-py3-none-any.whl); "
            "python -m build makes one from a checkout"
        )
    return found[1]


class Wheels:
    """The wheel of this checkout, built once when the first board wants it."""

    def __init__(self, work: Path, root: Path = ROOT) -> None:
        """Build below ``work``, from the checkout at ``root``."""
        self._work = work
        self._root = root
        self._lock = threading.Lock()
        self._built: Path | None = None

    def own(self) -> Path:
        """The wheel.

        Raises:
            BoardError: This is no checkout, or it cannot be built here.
        """
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built

    def _build(self) -> Path:
        cure = "install it there, or name a wheel with wheel = in the inventory"
        if not (self._root / "pyproject.toml").is_file():
            raise BoardError(f"there is no checkout here to build pocketgan from: {cure}")
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(self._work)],
            cwd=self._root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        wheels = list(self._work.glob("pocketgan-*.whl"))
        if done.returncode or len(wheels) != 1:
            said = one_line(done.stderr) or f"status {done.returncode}"
            raise BoardError(f"no wheel could be built here ({said}): {cure}")
        return wheels[0]
