"""Where what can be fetched or made again is kept: one folder, shared by all rooms."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "POCKETGAN_CACHE"


def cache_folder() -> Path:
    """Where fetched weights, features of images and results that took long are kept.

    ``POCKETGAN_CACHE`` where it is set, else ``pocketgan`` in the platform's cache folder.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pocketgan"
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pocketgan"
