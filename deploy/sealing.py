"""Write a directory whole or not at all: what a kill or a full disk interrupts leaves no trace."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from devices.sealed import digest, seal_text


def seal(
    out: Path, name: str, fill: Callable[[Path], Callable[[dict[str, str]], BaseModel]]
) -> None:
    """Write a sealed directory.

    Args:
        out: The directory; one that is there is replaced when the new one is complete.
        name: File name of its JSON face.
        fill: Writes every other file into the folder it is given and returns a function that
            makes the face from their digests.

    Raises:
        ValueError, OSError: As `write_whole`.
    """

    def fill_and_seal(folder: Path) -> None:
        make_face = fill(folder)
        sha256 = {path.name: digest(path) for path in sorted(folder.iterdir())}
        face = folder / name
        face.write_text(make_face(sha256).model_dump_json(indent=2) + "\n")
        (folder / f"{name}.sha256").write_text(seal_text(digest(face), name))

    write_whole(out, name, fill_and_seal)


def write_whole(out: Path, name: str, fill: Callable[[Path], None]) -> None:
    """Write a directory beside ``out`` and put it in its place when it is complete.

    Args:
        out: The directory; one that is there is replaced.
        name: A file that every directory of this kind holds.
        fill: Writes the files into the folder it is given.

    Raises:
        ValueError: ``out`` is a file, or a folder without ``name``: replacing it would lose what is
            in it.
        OSError: A write failed (a full disk, say); nothing is left behind and what was at
            ``out`` is as it was.
    """
    out = out.resolve()
    if out.exists() and not (out.is_dir() and ((out / name).exists() or not any(out.iterdir()))):
        raise ValueError(
            f"{out} is in the way: it holds no {name} to replace; choose another --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    old = folder.with_name(f"{folder.name}-old")
    try:
        folder.chmod(0o755)
        fill(folder)
        if out.exists():
            os.replace(out, old)
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)
