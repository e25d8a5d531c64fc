"""What of a student cannot run on a Jetson's deep-learning accelerator (DLA), and why.

The table is NVIDIA's "DLA supported layers and restrictions" for TensorRT 8.5 to 10.7, as far as
generators meet it; what is not in it runs on the GPU, with a copy of the image each way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from deploy import graph
from deploy.findings import Finding
from deploy.passes.draft import setting
from deploy.passes.rewrites import kind

LAST_TENSORRT = (10, 7)
"""The last TensorRT with a DLA for sure (NVIDIA, "Working with DLA")."""
WITHOUT_DLA = (11, 0)
"""From here on there is none on a Jetson (the same page); in between the sources disagree."""

RUNS = frozenset(
    {
        *("Conv", "ConvTranspose", "BatchNormalization", "Resize", "Concat", "Slice", "Identity"),
        *("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip"),
        *("Add", "Sub", "Mul", "Max", "Min", "Sum"),
        *("MaxPool", "AveragePool", "GlobalAveragePool"),
    }
)
REMEDIES = {
    "Conv": "change the layer, or let it fall back to the GPU",
    "ConvTranspose": "name ConvTranspose(padded) in unsupported_operators: slices crop instead",
    "Resize": "scale by a stored whole number, nearest or linear",
    "InstanceNormalization": "train a student with batch norm, which folds into convolutions",
    "Pad": "use student family `edge`, or let it fall back to the GPU",
    "QuantizeLinear": "translate Q/DQ to ranges with NVIDIA's qdq-translator, or build fp16",
    "DequantizeLinear": "translate Q/DQ to ranges with NVIDIA's qdq-translator, or build fp16",
}
FALL_BACK = "let it fall back to the GPU"

MOST_KERNEL, MOST_STRIDE, MOST_DILATION, MOST_CHANNELS, MOST_SCALE = 32, 8, 32, 8192, 32


def dla_findings(model: onnx.ModelProto) -> list[Finding]:
    """Everything in a student that would leave the DLA; nothing of it is blocking.

    Args:
        model: A float student; its opset does not matter.
    """
    found: Counter[tuple[str, str]] = Counter()
    image = next(value for value in model.graph.input if value.name == graph.input_name(model))
    dims = image.type.tensor_type.shape.dim
    dynamic = sum(not dim.dim_value for dim in dims)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for why in _restrictions(node, stored):
            found[kind(node), why] += 1
    findings = [
        Finding(name, count, f"not on DLA: {why}", REMEDIES.get(name.partition("(")[0], FALL_BACK))
        for (name, why), count in found.items()
    ]
    if dynamic:
        pin = "an engine for a DLA is built for one image size and takes no other"
        findings.insert(0, Finding("dynamic dims", dynamic, "not on DLA: sizes must be fixed", pin))
    return findings


def _restrictions(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Iterator[str]:
    """Why one node cannot run there, a phrase for each reason."""
    name = node.op_type
    if name in ("QuantizeLinear", "DequantizeLinear"):
        yield "explicit Q/DQ is not read for it"
    elif name == "Constant":
        return
    elif name not in RUNS:
        yield "no such layer"
    elif name in ("Conv", "ConvTranspose"):
        yield from _convolution(node, stored)
    elif name == "Resize":
        yield from _resize(node, stored)


def _convolution(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Iterator[str]:
    weight = stored.get(node.input[1])
    if weight is None:
        yield "its weight is computed"
        return
    kernel = list(setting(node, "kernel_shape", weight.dims[2:]))
    pads = list(setting(node, "pads", [0] * 2 * len(kernel)))
    strides = list(setting(node, "strides", [1]))
    if not all(1 <= size <= MOST_KERNEL for size in kernel):
        yield f"kernel {_x(kernel)} is not within 1 to {MOST_KERNEL}"
    if max(weight.dims[:2]) > MOST_CHANNELS:
        yield f"{max(weight.dims[:2])} channels are over {MOST_CHANNELS}"
    if setting(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        yield "its padding depends on the image"
    if node.op_type == "ConvTranspose":
        if any(pads) or any(setting(node, "output_padding", [0])):
            yield "padding must be 0"
        if setting(node, "group", 1) != 1:
            yield f"{setting(node, 'group', 1)} groups must be 1"
        return
    if not all(pad < size for pad, size in zip(pads, kernel * 2, strict=True)):
        yield f"padding {_x(pads)} is not below the kernel {_x(kernel)}"
    if not all(1 <= stride <= MOST_STRIDE for stride in strides):
        yield f"stride {_x(strides)} is not within 1 to {MOST_STRIDE}"
    if not all(step <= MOST_DILATION for step in setting(node, "dilations", [1])):
        yield f"dilation is over {MOST_DILATION}"


def _resize(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Iterator[str]:
    mode = setting(node, "mode", "nearest")
    if mode not in ("nearest", "linear"):
        yield f"mode {mode}"
    name = node.input[2] if len(node.input) > 2 else ""
    if name not in stored:
        yield "its scale is computed"
        return
    scales: NDArray[Any] = numpy_helper.to_array(stored[name])
    whole = bool(np.all(scales == np.rint(scales)))
    if not whole or scales.min() < 1 or scales.max() > MOST_SCALE:
        yield f"scale {_x(scales.tolist())} is not a whole number within 1 to {MOST_SCALE}"


def _x(sizes: list[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
