"""What each execution provider of ONNX Runtime is told, and which package brings it."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from devices.profile import DeviceProfile, Precision

logger = logging.getLogger(__name__)

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
XNNPACK = "XnnpackExecutionProvider"
QNN = "QNNExecutionProvider"
COREML = "CoreMLExecutionProvider"

CURES = {
    "CPUExecutionProvider": "install onnxruntime",
    TENSORRT: "install onnxruntime-gpu for this device",
    CUDA: "install onnxruntime-gpu for this device",
    COREML: "install onnxruntime on macOS, whose wheel has it",
    # wheels of both exist for other systems only, or as a plugin that is registered by hand
    QNN: "build onnxruntime with --use_qnn",
    XNNPACK: "build onnxruntime with --use_xnnpack",
}
"""What to do where a provider is missing. On macOS the plain wheel has CoreML; XNNPACK is in the
packages for Android and iOS alone; onnxruntime-qnn 2.7 has wheels for Windows alone."""

BUILDER_LEVEL = 5
"""TensorRT's highest, against a default of 3: the engine is built once and then cached."""


def cure(provider: str) -> str:
    """What to install for a provider."""
    return CURES.get(provider, f"install or build an onnxruntime with {provider}")


def provider_options(
    name: str, engine: Path, profile: DeviceProfile, precision: Precision
) -> dict[str, str]:
    """Options for one execution provider; those of the profile win over ours."""
    if name == TENSORRT:
        ours = tensorrt_options(engine, profile, precision)
    elif name == CUDA:
        ours = cuda_options(precision)
    elif name == XNNPACK:
        ours = {"intra_op_num_threads": str(profile.threads)}
    elif name == QNN:
        ours = qnn_options(precision)
    elif name == COREML:
        ours = coreml_options(precision)
    else:
        ours = {}
    return ours | profile.provider_options.get(name, {})


def cuda_options(precision: Precision) -> dict[str, str]:
    """CUDA: float32 is float32, not TF32, for it is what the others are compared with."""
    return {"use_tf32": "0"} if precision == "fp32" else {}


def qnn_options(precision: Precision) -> dict[str, str]:
    """QNN: the Hexagon processor (HTP) at its full clock, in FP16 where the graph is float.

    An fp32 engine is left to QNN's CPU library, or to ONNX Runtime's where a profile insists on
    HTP, which has no float32.
    """
    if precision == "fp32":
        return {"backend_path": "libQnnCpu.so", "enable_htp_fp16_precision": "0"}
    return {
        "backend_path": "libQnnHtp.so",
        "htp_performance_mode": "burst",
        "htp_graph_finalization_optimization_mode": "3",
        "enable_htp_fp16_precision": "1",
    }


def coreml_options(precision: Precision) -> dict[str, str]:
    """CoreML: its newer format, on whatever is fastest; fp32 without the Neural Engine.

    The Neural Engine computes in FP16 whatever the graph says.
    """
    return {
        "ModelFormat": "MLProgram",
        "MLComputeUnits": "CPUOnly" if precision == "fp32" else "ALL",
    }


def tensorrt_options(engine: Path, profile: DeviceProfile, precision: Precision) -> dict[str, str]:
    """TensorRT inside ONNX Runtime.

    It builds its engine on first use, which takes minutes, and keeps it in a folder beside the
    ONNX file. The folder carries the file's digest: an engine cached for another model under the
    same name would translate images wrongly without a word.
    """
    board = profile.tensorrt
    options = {
        "trt_fp16_enable": str(precision in ("fp16", "int8")),  # what INT8 leaves runs in FP16
        "trt_bf16_enable": str(precision == "bf16"),
        "trt_int8_enable": str(precision == "int8"),
    }
    if board is not None:
        options["trt_max_workspace_size"] = str(board.workspace_mib << 20)
    if board is not None and board.use_dla and precision in ("fp16", "int8"):
        options |= {"trt_dla_enable": "True", "trt_dla_core": "0"}
    if not os.access(engine.parent, os.W_OK):
        logger.warning("%s is read-only: TensorRT builds its engine at every start", engine.parent)
        return options
    with engine.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    cache = str(engine.parent / f"tensorrt-{precision}-{key}")
    return options | {
        "trt_builder_optimization_level": str(BUILDER_LEVEL),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": cache,
    }
