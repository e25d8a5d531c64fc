"""How many convolutions of an engine really compute on integers, asked of the runtime itself."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from devices.profile import Backend

SIZE = 256
"""Height and width of the image that is run where an engine takes any; U-Nets need 256."""
INTEGER = ("QLinearConv", "ConvInteger")
FLOAT = ("Conv", "FusedConv", "ConvTranspose")
"""ONNX Runtime's names, after its own fusions."""
CONVOLUTIONS = ("Convolution", "Deconvolution")
BYTES = ("u8", "i8")
"""OpenVINO's names, in the graph that it runs."""


def integer_kernels(engine: Path, backend: Backend) -> tuple[int, int]:
    """Convolutions that run on integers, and all convolutions.

    ONNX Runtime's come from its profile of one run on the CPU; OpenVINO's from the graph it
    compiles for the CPU.

    Args:
        engine: The file that a session opens.
        backend: What runs it.

    Raises:
        ValueError: TensorRT, which chooses its kernels on the device.
        ModuleNotFoundError: The runtime is not installed.
    """
    if backend == "onnxruntime":
        return _onnxruntime(engine)
    if backend == "openvino":
        return _openvino(engine)
    raise ValueError(
        f"{backend} chooses its kernels on the device: count them there, with trtexec "
        "--dumpLayerInfo --profilingVerbosity=detailed"
    )


def _onnxruntime(engine: Path) -> tuple[int, int]:
    import onnxruntime as ort  # noqa: PLC0415  # only where it is the backend

    with tempfile.TemporaryDirectory(prefix="pocketgan-") as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        session = ort.InferenceSession(engine, options, providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        shape = [
            extent if isinstance(extent, int) else usual
            for extent, usual in zip(image.shape, (1, 3, SIZE, SIZE), strict=True)
        ]
        session.run(None, {image.name: np.zeros(shape, np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = {
        event["args"]["node_index"]: event["args"]["op_name"]
        for event in events
        if event["name"].endswith("_kernel_time")
    }
    integer = sum(name in INTEGER for name in ran.values())
    return integer, integer + sum(name in FLOAT for name in ran.values())


def _openvino(engine: Path) -> tuple[int, int]:
    from devices.openvino import cpu_core  # noqa: PLC0415  # only where it is the backend

    core, _ = cpu_core()
    model = core.read_model(engine)
    shape = model.input(0).partial_shape
    if shape.is_dynamic:
        model.reshape([1, shape[1], SIZE, SIZE])
    # f32 for the rest: where the CPU has bf16 it would be counted as neither
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [
        fact["runtimePrecision"].get() for fact in facts if fact["layerType"].get() in CONVOLUTIONS
    ]
    return sum(precision in BYTES for precision in precisions), len(precisions)
