"""ONNX Runtime sessions, on the CPU or through its TensorRT and CUDA providers."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError, Images

logger = logging.getLogger(__name__)

PROVIDER_PACKAGES = {"CPUExecutionProvider": "onnxruntime"}
"""The package that brings a provider; every other one comes with onnxruntime-gpu."""


class OrtSession:
    """An ONNX file on ONNX Runtime, held to the profile's providers and threads.

    Raises:
        DeviceError: This ONNX Runtime lacks a provider, or cannot read the file.
    """

    def __init__(self, engine: Path, profile: DeviceProfile, *, precision: Precision) -> None:
        missing = [name for name in profile.execution_providers if name not in providers()]
        if missing:
            package = PROVIDER_PACKAGES.get(missing[0], "onnxruntime-gpu")
            raise DeviceError(
                f"profile {profile.name!r} needs {', '.join(missing)}; onnxruntime "
                f"{ort.__version__} offers {', '.join(providers())}: install {package} "
                "for this device, or choose another profile"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = profile.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; what is only odd goes to nobody who could act
        # a spinning pool burns a core for 30 to 40 ms after each run and slows whatever runs next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                engine,
                options,
                providers=[
                    (name, provider_options(name, engine, precision))
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


def provider_options(name: str, engine: Path, precision: Precision) -> dict[str, str]:
    """Options for one execution provider; only TensorRT has any.

    TensorRT builds its engine on first use, which takes minutes, and keeps it in a folder beside
    the ONNX file. The folder carries the file's digest: an engine cached for another model under
    the same name would translate images wrongly without a word.
    """
    if name != "TensorrtExecutionProvider":
        return {}
    options = {
        "trt_fp16_enable": str(precision in ("fp16", "int8")),  # what INT8 leaves runs in FP16
        "trt_bf16_enable": str(precision == "bf16"),
        "trt_int8_enable": str(precision == "int8"),
    }
    if not os.access(engine.parent, os.W_OK):
        logger.warning("%s is read-only: TensorRT builds its engine at every start", engine.parent)
        return options
    with engine.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    cache = str(engine.parent / f"tensorrt-{precision}-{key}")
    return options | {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": cache,
    }


def first_line(error: Exception) -> str:
    """The first line of a runtime's message, which is where it says what was wrong."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
