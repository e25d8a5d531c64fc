"""Segments of an engine, loaded: many maps in, many out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from devices.profile import Backend, DeviceProfile, Precision
from devices.session import DeviceError

Values = NDArray[Any]
"""A map: (1, C, H, W), float32 or quantized."""


class SegmentSession(Protocol):
    """A loaded segment. Not thread-safe."""

    def run(self, maps: Mapping[str, Values]) -> Mapping[str, Values]:
        """Its outputs by name, for its inputs by name; the next run may write them again."""
        ...


RUNTIMES: dict[Backend, str] = {
    # module names, so that a runtime that is not installed is only missed when it is wanted
    "onnxruntime": "deploy.tiling.segments_ort",
    "openvino": "deploy.tiling.segments_openvino",
}


def open_segment(
    segment: bytes, profile: DeviceProfile, *, backend: Backend, precision: Precision
) -> SegmentSession:
    """Load a segment with the runtime of the engine that it was cut from.

    Args:
        segment: Its ONNX file: whoever serves has read it when its digest was checked.
        profile: The device.
        backend: Of the engine.
        precision: Of the engine.

    Raises:
        DeviceError: The runtime is not installed, cannot read it, or has no segments.
    """
    if backend not in RUNTIMES:
        raise DeviceError(f"{backend} runs no segments: give it images that it can take whole")
    try:
        runtime = importlib.import_module(RUNTIMES[backend])
    except ModuleNotFoundError as missing:
        raise DeviceError(f"{backend} is not installed: pip install {backend}") from missing
    opened: SegmentSession = runtime.open_segment(segment, profile, precision=precision)
    return opened
