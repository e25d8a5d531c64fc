"""Folders of images to measure: which files, which half of each, and which belong together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from compress.data.folders import MAX_PIXELS, SUFFIXES, image_paths
from deploy import imaging
from deploy.imaging import ImageError, Pixels

Half = Literal["left", "right"]

Pairing = Literal["name", "order", "none"]
"""How images and references belong together: by file name without suffix, sorted, or not."""

NAMED = 3
"""How many files a message names."""


@dataclass(frozen=True)
class Folder:
    """Image files of a folder, sorted by name; read one at a time.

    Attributes:
        path: The folder.
        files: Files that were whole when the folder was opened.
        half: Which half of each is meant, where files hold two images side by side.
        skipped: Files that are not images.
    """

    path: Path
    files: tuple[Path, ...]
    half: Half | None = None
    skipped: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Pixels]:
        """The images, (H, W, 3) each; grey ones as RGB."""
        return (_read(path, self.half) for path in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """File names without suffix."""
        return tuple(path.stem for path in self.files)

    def without(self, names: set[str]) -> Folder:
        """The same without some names."""
        kept = tuple(path for path in self.files if path.stem not in names)
        return replace(self, files=kept)


def open_folder(path: Path, *, half: Half | None = None, skip_broken: bool = False) -> Folder:
    """Look through a folder of images; every file is decoded once, to know that it can be.

    Raises:
        ValueError: No such folder, no images in it, or broken files that may not be skipped; the
            message names them.
    """
    if not path.is_dir():
        raise ValueError(f"there is no folder of images {path}")
    files = image_paths(path)
    broken = {}
    for file in files:
        try:
            _read(file, half)
        except ImageError as error:
            broken[file] = str(error)
    if broken and not skip_broken:
        named = "; ".join(list(broken.values())[:NAMED])
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise ValueError(
            f"{named}{more}: mend or remove them, or leave them out with --skip-broken"
        )
    whole = tuple(file for file in files if file not in broken)
    if not whole:
        raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)})")
    return Folder(path, whole, half, tuple(broken))


def pair_up(
    images: Folder, references: Folder, pairing: Pairing
) -> tuple[Folder, Folder, str | None]:
    """Bring two folders into one order, if they pair.

    The partner of a file that was skipped is left out with it.

    Returns:
        Both folders, and why they do not pair, or None where they do.

    Raises:
        ValueError: Pairing by order was asked for and the counts differ or files were skipped.
    """
    if pairing == "none":
        return images, references, "pairs were not asked for"
    if pairing == "order":
        if len(images) != len(references) or images.skipped or references.skipped:
            raise ValueError(
                f"pairs by order take the same count of whole files: {images.path} holds "
                f"{len(images)} and {len(images.skipped)} broken, {references.path} "
                f"{len(references)} and {len(references.skipped)}"
            )
        return images, references, None
    lost = {path.stem for path in (*images.skipped, *references.skipped)}
    ours, theirs = images.without(lost), references.without(lost)
    alone = sorted(set(ours.names) ^ set(theirs.names))
    if alone:
        return (
            images,
            references,
            f"{len(alone)} names have no partner ({', '.join(alone[:NAMED])} ...)",
        )
    if len(set(ours.names)) != len(ours) or len(set(theirs.names)) != len(theirs):
        return images, references, "names occur twice, with different suffixes"
    return ours, theirs, None


def _read(path: Path, half: Half | None) -> Pixels:
    pixels = imaging.read_image(path, max_pixels=MAX_PIXELS)
    if half is None:
        return pixels
    width = pixels.shape[1]
    if width % 2:
        raise ImageError(f"{path} is {width} pixels wide, and has no equal halves")
    return pixels[:, : width // 2] if half == "left" else pixels[:, width // 2 :]
