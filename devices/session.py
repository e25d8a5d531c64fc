"""Run a compiled engine: one small Protocol, one file per runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from devices.profile import Backend, DeviceProfile, Precision

Images = NDArray[np.float32]
"""Images as the generator sees them: ``(N, C, H, W)``, float32, in ``[-1, 1]``."""


class DeviceError(RuntimeError):
    """This machine cannot do what a profile or an engine asks; the message says what to try."""


class Session(Protocol):
    """An engine loaded on a device. Not thread-safe; the caller serialises calls."""

    def run(self, images: Images) -> Images:
        """Translate a batch; same layout in and out."""
        ...


def open_session(
    engine: Path, profile: DeviceProfile, *, backend: Backend, precision: Precision
) -> Session:
    """Load ``engine`` with the runtime it was compiled for.

    Raises:
        DeviceError: The runtime is not installed, lacks the profile's execution providers, or
            cannot read the file.
    """
    try:
        if backend == "openvino":
            from devices.openvino import OpenVinoSession

            return OpenVinoSession(engine, profile, precision=precision)
        if backend == "tensorrt":
            from devices.trt import TensorRtSession

            return TensorRtSession(engine, profile, precision=precision)
        from devices.ort import OrtSession

        return OrtSession(engine, profile, precision=precision)
    except ModuleNotFoundError as missing:
        raise DeviceError(
            f"{engine.name} needs the {backend} runtime, which is not installed: "
            f"pip install {backend}"
        ) from missing


def onnxruntime_providers() -> list[str]:
    """Execution providers of the installed ONNX Runtime; empty where it is not installed."""
    try:
        from devices.ort import providers

        return providers()
    except ModuleNotFoundError:
        return []


@dataclass
class StubSession:
    """A session that calls a plain function: for tests, and to try the server without a model."""

    function: Callable[[Images], Images] = field(default=lambda images: -images)

    def run(self, images: Images) -> Images:
        """Apply the function."""
        return self.function(images)
