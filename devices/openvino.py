"""OpenVINO sessions on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError, Images
from devices.signal_stack import kept_signal_stack
from devices.unreported import unreported

with unreported():
    import openvino as ov

HINTS = {"fp32": "f32", "int8": "bf16", "bf16": "bf16"}
"""What is not integer runs in this type. It is always said, because OpenVINO's own choice is bf16
where the CPU has it. INT8 graphs with float layers left are a third faster so (4.3 against 6.6 ms,
10 interleaved rounds of 10); where the CPU has no bf16, those layers run in f32."""

SUFFIXES = (".onnx", ".xml")


class OpenVinoSession:
    """An ONNX or OpenVINO IR file on the CPU, with dynamic height and width.

    The profile's image size has a graph of its own with that size fixed, which is 2 to 3 percent
    faster and answers the first image a quarter sooner than the dynamic graph (measured); the
    dynamic one is compiled when another size comes, from what was read here: the file may be
    replaced while a server runs.

    Raises:
        DeviceError: OpenVINO cannot read the file, or the CPU does not compute in ``precision``.
    """

    def __init__(self, engine: Path, profile: DeviceProfile, *, precision: Precision) -> None:
        if precision not in HINTS:
            raise DeviceError(
                f"openvino on a CPU computes in {', '.join(HINTS)}, not in {precision}: "
                "choose one of those"
            )
        if engine.suffix not in SUFFIXES:
            raise DeviceError(f"{engine} is not a file openvino reads ({', '.join(SUFFIXES)})")
        self._core, has_bf16 = cpu_core()
        if precision == "bf16" and not has_bf16:
            raise DeviceError(f"this CPU does not compute in bf16: make {engine.name} in fp32")
        self._engine = engine
        self._options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision] if has_bf16 else "f32",
            "INFERENCE_NUM_THREADS": profile.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = self._read()
        self._fixed_shape, self._fixed = self._compile_fixed(profile.image_size)
        self._dynamic: ov.InferRequest | None = None

    def run(self, images: Images) -> Images:
        """Translate a batch.

        Raises:
            DeviceError: The engine does not take this shape, or memory ran out.
        """
        try:
            results = self._request(images.shape).infer([images], share_inputs=True)
        except RuntimeError as error:
            raise DeviceError(
                f"{self._engine.name} cannot translate images of shape {images.shape} "
                f"({reason(error)}); try the size it was made for"
            ) from error
        return np.asarray(results[0], dtype=np.float32)

    def _request(self, shape: tuple[int, ...]) -> ov.InferRequest:
        if shape == self._fixed_shape:
            return self._fixed
        if self._dynamic is None:
            self._dynamic = self._compile(self._model)
        return self._dynamic

    def trim(self) -> None:
        """Give back the memory that images of other sizes took; the next one takes it again."""
        self._dynamic = None

    def _compile_fixed(self, size: int) -> tuple[tuple[int, ...], ov.InferRequest]:
        """The graph for one image of ``size`` x ``size``, or as it is where it fixes its size."""
        try:
            model = self._model.clone()
            shape = model.input(0).partial_shape
            if shape.is_dynamic:
                model.reshape([1, shape[1], size, size])
            return tuple(model.input(0).shape), self._compile(model)
        except RuntimeError as error:
            raise self._unreadable(error) from error

    def _read(self) -> ov.Model:
        # mapped weights change under us when somebody writes over the file
        self._core.set_property({"ENABLE_MMAP": False})
        try:
            return self._core.read_model(self._engine)
        except RuntimeError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: RuntimeError) -> DeviceError:
        return DeviceError(
            f"openvino {ov.__version__} cannot read {self._engine} ({reason(error)}); "
            "make it again with pocketgan deploy"
        )

    def _compile(self, model: ov.Model) -> ov.InferRequest:
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()


def cpu_core() -> tuple[ov.Core, bool]:
    """OpenVINO with its CPU plugin loaded, and whether this CPU computes in bf16."""
    core = ov.Core()
    with kept_signal_stack():
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core, "BF16" in capabilities


def reason(error: RuntimeError) -> str:
    """The line of an OpenVINO error that says what was wrong; the first ones name its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    where = ("Exception from", "Check '")
    telling = [line for line in lines if line and not line.startswith(where)]
    return telling[0] if telling else type(error).__name__
