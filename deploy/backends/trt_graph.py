"""What a builder of TensorRT engines must know of a graph, from the ONNX alone."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

from devices.profile import Precision
from devices.session import DeviceError

STRIDED = ("Conv", "MaxPool", "AveragePool")
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def coarsest(model: onnx.ModelProto) -> int:
    """By how much the deepest layer divides height and width: 4 for ResNet-9, 256 for UNet-256.

    An image whose sides are no multiple of it may not pass a network with skip connections.
    """
    scale: dict[str, float] = {}
    deepest = 1.0
    for node in model.graph.node:
        factor = max((scale.get(name, 1.0) for name in node.input), default=1.0)
        values = {item.name: item for item in node.attribute}
        stride = values["strides"].ints[0] if "strides" in values else 1
        if node.op_type in STRIDED:
            factor *= stride
        elif node.op_type == "ConvTranspose":
            factor /= stride
        elif node.op_type in ("SpaceToDepth", "DepthToSpace"):
            block = values["blocksize"].i
            factor = factor * block if node.op_type == "SpaceToDepth" else factor / block
        elif node.op_type == "Resize":
            factor = 1.0  # how far it goes is computed; what follows counts from here
        deepest = max(deepest, factor)
        scale.update(dict.fromkeys(node.output, factor))
    return math.ceil(deepest)


def sides(model: onnx.ModelProto, image_size: int) -> tuple[int, int]:
    """The smallest and the largest height and width that a plan is built for.

    Half and twice the size of the profile: TensorRT chooses its kernels for that size and keeps
    memory for the largest. A network takes no less than one pixel at its deepest layer allows.
    """
    step = coarsest(model)
    least = math.ceil(image_size / 2 / step) * step
    return min(least, image_size), 2 * image_size


def check_precision(model: onnx.ModelProto, precision: Precision, *, strong: bool) -> None:
    """Refuse a graph that cannot give an engine of this precision.

    Args:
        model: What is to be compiled.
        precision: What the engine is to be called.
        strong: Whether the network is strongly typed, so that only the graph decides.

    Raises:
        DeviceError: The graph computes in something else.
    """
    if precision == "int8":
        if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            raise DeviceError(
                "the graph has no QuantizeLinear: TensorRT computes in int8 only between Q/DQ "
                "nodes; quantize it first"
            )
    elif strong:
        kinds = {tensor.data_type for tensor in model.graph.initializer}
        halves = kinds & set(HALVES.values())
        if halves != ({HALVES[precision]} if precision in HALVES else set()):
            there = ", ".join(TensorProto.DataType.Name(kind).lower() for kind in sorted(kinds))
            raise DeviceError(
                f"the graph's weights are {there}: a strongly typed TensorRT computes in what the "
                f"graph says, so convert it to {precision} first"
            )
