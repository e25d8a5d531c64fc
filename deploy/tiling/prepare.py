"""Put what a server needs for tiles beside an engine."""

from __future__ import annotations

from pathlib import Path

import onnx

from deploy.tiling.cutting import plan_tiling
from deploy.tiling.spec import TILING, Tiling


def write_tiling(model: onnx.ModelProto, folder: Path, *, size_multiple: int) -> Tiling:
    """Write ``tiling.json``, and one ONNX file for each segment where there are any.

    Args:
        model: The graph that the engine was compiled from, in standard operators.
        folder: Of the bundle that is being made.
        size_multiple: What images are padded to before they reach the engine.

    Raises:
        OSError: A file could not be written.
    """
    tiling, files = plan_tiling(model, size_multiple=size_multiple)
    for name, segment in files.items():
        (folder / name).write_bytes(segment.SerializeToString(deterministic=True))
    (folder / TILING).write_text(tiling.model_dump_json(indent=1) + "\n")
    return tiling
