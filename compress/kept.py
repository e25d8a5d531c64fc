"""What a run finds once and keeps: measurements are never twice the same, and runs are killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def remembered(path: Path, run: str) -> Any | None:
    """What a file knows of this run; None where it is not there, or another run's."""
    if not path.is_file():
        return None
    known = json.loads(path.read_text())
    return known["found"] if known["run"] == run else None


def once(path: Path, run: str, find: Callable[[], Any]) -> Any:
    """What a file knows of this run, or what is found now and written there.

    Args:
        path: A JSON file.
        run: Identifies the run; what another has left is not taken.
        find: Finds it, as JSON.

    Raises:
        OSError: The file could not be written.
    """
    known = remembered(path, run)
    if known is not None:
        return known
    found = find()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"run": run, "found": found}, indent=1) + "\n")
    part.replace(path)
    return found
