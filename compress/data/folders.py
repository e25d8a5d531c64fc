"""Folders of images: what is in them, what is broken, and what their bytes are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy import imaging
from deploy.imaging import ImageError, Pixels

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 100_000_000
"""A user's own files may be larger than what strangers upload; 300 MB once decoded."""
LISTED = 10

Broken = Literal["refuse", "skip"]
"""What to do about broken files: stop and name them, or warn, name them and go on without."""


@dataclass(frozen=True)
class File:
    """An image file that was looked at, not decoded.

    Attributes:
        path: Where it is.
        height: In pixels, upright.
        width: In pixels, upright.
        sha256: Of its bytes, in hex.
    """

    path: Path
    height: int
    width: int
    sha256: str

    def read(self) -> Pixels:
        """Decode it: (height, width, 3).

        Raises:
            ImageError: Damage that does not show from outside, or the file has changed.
        """
        try:
            return imaging.read_image(self.path, max_pixels=MAX_PIXELS)
        except ImageError as error:
            raise type(error)(f"{error}; take it out of the folder and start again") from error


@dataclass(frozen=True)
class Folder:
    """The images of a folder, sorted by file name.

    Attributes:
        path: The folder.
        files: Its usable images.
        skipped: Names, without suffix, of those that are broken.
    """

    path: Path
    files: tuple[File, ...]
    skipped: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """File names without suffix."""
        return tuple(file.path.stem for file in self.files)


def open_folder(
    path: Path, broken: Broken, *, refuse_size: Callable[[int, int], str] = lambda *_: ""
) -> Folder:
    """Look at every image of a folder: header, completeness, digest. None is decoded.

    Args:
        path: The folder; what lies in folders inside it is not read, nor are hidden files.
        broken: What to do about files that are no whole images.
        refuse_size: Why an image of this height and width is of no use, or "".

    Raises:
        ValueError: No such folder, no images in it, broken ones that are not to be skipped, or
            nothing but broken ones.
    """
    if not path.is_dir():
        raise ValueError(f"there is no photo folder {path}; make it, or name another in [data]")
    paths = image_paths(path)
    if not paths:
        raise ValueError(
            f"{path} holds no images ({', '.join(SUFFIXES)}); name the folder that does in [data]"
        )
    files, reasons = [], {}
    for entry in paths:
        try:
            data = entry.read_bytes()
            height, width = imaging.inspect(data, max_pixels=MAX_PIXELS)
        except (ImageError, OSError) as error:
            reasons[entry.name] = str(error)
            continue
        reason = refuse_size(height, width)
        if reason:
            reasons[entry.name] = reason
        else:
            files.append(File(entry, height, width, hashlib.sha256(data).hexdigest()))
    settle(f"{path}", reasons, broken, total=len(paths))
    return Folder(path, tuple(files), frozenset(Path(name).stem for name in reasons))


def image_paths(folder: Path) -> list[Path]:
    """Files of a folder that are images by their suffix, sorted; none that are hidden."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    )


def settle(where: str, reasons: Mapping[str, str], broken: Broken, *, total: int) -> None:
    """Refuse broken files, or say that they are skipped.

    Args:
        where: The folder or folders, for the message.
        reasons: Why each is broken, by file name.
        broken: What to do.
        total: How many files there are with them.

    Raises:
        ValueError: They are to be refused, or there are no others.
    """
    if not reasons:
        return
    listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:LISTED])
    if len(reasons) > LISTED:
        listed += f"; and {len(reasons) - LISTED} more"
    said = f"{where}: {len(reasons)} of {total} files are of no use: {listed}"
    if len(reasons) == total:
        raise ValueError(f"{said}; name another folder in [data]")
    if broken == "refuse":
        raise ValueError(f'{said}; take them out, or set broken = "skip" in [data]')
    log.warning("%s; skipped", said)


def match_names(
    first: Folder,
    second: Folder,
    *,
    rename: Callable[[str], str] = lambda name: name,
) -> list[tuple[File, File]]:
    """Files of two folders with the same name; without those whose partner was skipped.

    Args:
        first: A folder.
        second: Another.
        rename: What a name in ``second`` is called in ``first``.

    Raises:
        ValueError: A name that occurs twice, or has no partner.
    """
    ours, theirs = _by_name(first, str), _by_name(second, rename)
    skipped = first.skipped | {rename(name) for name in second.skipped}
    alone = sorted((set(ours) ^ set(theirs)) - skipped)
    if alone:
        raise ValueError(
            f"{first.path} and {second.path} must hold the same names; without a partner: "
            f"{', '.join(alone[:LISTED])}"
            + (f" and {len(alone) - LISTED} more" if len(alone) > LISTED else "")
        )
    both = [(ours[name], theirs[name]) for name in ours if name in theirs]
    if not both:
        raise ValueError(f"{first.path} and {second.path}: every pair has a broken file")
    return both


def _by_name(folder: Folder, rename: Callable[[str], str]) -> dict[str, File]:
    found: dict[str, File] = {}
    for file in folder.files:
        name = rename(file.path.stem)
        if name in found:
            raise ValueError(
                f"{folder.path}: {found[name].path.name} and {file.path.name} have the same name; "
                "rename one, with its partner"
            )
        found[name] = file
    return found


def files_digest(how: str, *groups: Iterable[File]) -> str:
    """SHA-256 of what files hold, of their names, and of ``how`` they are used."""
    seen = hashlib.sha256(how.encode())
    for group in groups:
        seen.update(b"\0group\0")
        for file in group:
            seen.update(f"{file.path.stem}\0{file.sha256}\0".encode())
    return seen.hexdigest()
