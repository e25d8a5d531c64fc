"""Files of lines that several processes add to, and that may have been cut off."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


def read_lines(path: Path) -> list[str]:
    """Lines of a file that are not empty; none where there is no file."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n") if line.strip()]


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a file at once, whoever else adds to it; folders are made.

    A last line that was cut off is ended first, so that it spoils no other.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    with path.open("ab+", buffering=0) as file:  # every write goes to the end
        _lock(file)
        if file.seek(0, os.SEEK_END) and not _ends_a_line(file):
            text = f"\n{text}"
        file.write(text.encode())


def _ends_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _lock(file: IO[bytes]) -> None:
    """Wait for whoever else writes; the lock ends with the file's closing."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX)
