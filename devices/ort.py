"""ONNX Runtime sessions, on the CPU or through a provider of another device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from devices.ort_providers import XNNPACK, cure, provider_options
from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError, Images


class OrtSession:
    """An ONNX file on ONNX Runtime, held to the profile's providers and threads.

    Raises:
        DeviceError: This ONNX Runtime lacks a provider, or cannot read the file.
    """

    def __init__(self, engine: Path, profile: DeviceProfile, *, precision: Precision) -> None:
        missing = [name for name in profile.execution_providers if name not in providers()]
        if missing:
            raise DeviceError(
                f"profile {profile.name!r} needs {', '.join(missing)}; onnxruntime "
                f"{ort.__version__} offers {', '.join(providers())}: {cure(missing[0])}, "
                "or choose another profile"
            )
        options = ort.SessionOptions()
        # XNNPACK has threads of its own, and two pools on the same cores wait for each other
        xnnpack = XNNPACK in profile.execution_providers
        options.intra_op_num_threads = 1 if xnnpack else profile.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; what is only odd goes to nobody who could act
        # a spinning pool burns a core for 30 to 40 ms after each run and slows whatever runs next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                engine,
                options,
                providers=[
                    (name, provider_options(name, engine, profile, precision))
                    for name in profile.execution_providers
                ],
            )
        except Exception as error:  # one class per error code, with no base of their own
            raise DeviceError(
                f"onnxruntime {ort.__version__} cannot read {engine} ({first_line(error)}); "
                "make it again with pocketgan deploy"
            ) from error
        self._name = engine.name
        self._input = self._session.get_inputs()[0].name

    def run(self, images: Images) -> Images:
        """Translate a batch.

        Raises:
            DeviceError: The engine does not take this shape, or the device ran out of memory.
        """
        try:
            (output,) = self._session.run(None, {self._input: images})
        except Exception as error:
            raise DeviceError(
                f"{self._name} cannot translate images of shape {images.shape} "
                f"({first_line(error)}); try the size it was made for"
            ) from error
        return np.asarray(output, dtype=np.float32)


def providers() -> list[str]:
    """Execution providers of this ONNX Runtime, in its own order of preference."""
    return list(ort.get_available_providers())


def first_line(error: Exception) -> str:
    """The first line of a runtime's message, which is where it says what was wrong."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
