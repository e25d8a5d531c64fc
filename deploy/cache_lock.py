"""A lock between processes that ends with its holder, however that ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)


@contextmanager
def hold(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock that a file stands for, against other processes and other threads.

    Who holds it may remove the file.

    Args:
        path: The file; made if it is not there, never written.
        wait: Whether to wait for who holds it.

    Yields:
        Whether it is held; always where it was waited for.

    Raises:
        OSError: The file cannot be made, or its file system has no locks.
    """
    while True:
        with path.open("a") as file:
            if not _lock(file, wait=wait):
                yield False
                return
            if _is_at(file, path):
                yield True
                return
        # its holder removed the file while we waited: what we hold guards nothing any more


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str], *, wait: bool) -> bool:
    if sys.platform == "win32":
        return True  # there, two processes may both build: slower, not wrong
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        log.info("another process is building this engine; waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)
    return True
