"""Float islands between integer convolutions, closed so that ONNX Runtime convolves integers.

ONNX Runtime's CPU provider runs a convolution on integers only where its output is quantized too.
NNCF leaves an output float where a float operator reads it (InstanceNormalization), and the
convolution then runs in float whatever its inputs are. Quantizing that output as well is lossy, and
pays where convolutions are wide.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy.ranges import Range, quantization
from deploy.reverting import quantized_layers
from deploy.rewiring import copied, readers, with_nodes

PERCENTILE = 99.999
"""Values of a closed output inside its range, from either end. What InstanceNormalization reads has
rare extremes that carry the image: on a mobile student with 41 of them, sums in INT8, 99.95 gave
30.9 dB to float, 99.99 34.7, 99.999 35.0 and the extremes 33.2 (8 golden images)."""
FUSED = ("Relu", "Clip", "LeakyRelu")
"""Activations that an integer convolution takes in."""


def open_outputs(model: onnx.ModelProto) -> list[str]:
    """Outputs of INT8 convolutions that nothing quantizes, in graph order.

    ConvTranspose is left out: ONNX Runtime has no integer one. So is a convolution with no integer
    layer behind it: the image is made of its output, and rounding that is seen at once.
    """
    takers = readers(model.graph.node)
    integer = set(quantized_layers(model))
    leading: set[str] = set()  # tensors with an integer layer somewhere behind them
    for node in reversed(model.graph.node):
        if node.name in integer or leading.intersection(node.output):
            leading.update(node.input)
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.name in integer
        and node.output[0] in leading
        and not _quantized(node.output[0], takers)
    ]


def close_islands(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Q/DQ (UINT8) behind INT8 convolutions whose output stays float.

    Args:
        model: Q/DQ form; not changed.
        ranges: Of `open_outputs`, by `deploy.ranges.tensor_ranges`; an output that has none stays
            open.
    """
    model = copied(model)
    opened = set(open_outputs(model)).intersection(ranges)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        node.input[:] = [f"{name}_closed" if name in opened else name for name in node.input]
        nodes.append(node)
        name = node.output[0]
        if name not in opened:
            continue
        scale, zero, stored = f"{name}_scale", f"{name}_zero_point", f"{name}_quantized"
        for title, value in zip((scale, zero), quantization(ranges[name]), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), title))
        pair = (
            ("QuantizeLinear", name, stored, f"{node.name}_close"),
            ("DequantizeLinear", stored, f"{name}_closed", f"{node.name}_reopen"),
        )
        nodes += [helper.make_node(op, [i, scale, zero], [o], title) for op, i, o, title in pair]
    return with_nodes(model, nodes)


def _quantized(name: str, takers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether all that reads a tensor quantizes it, at most behind an activation."""
    found = takers.get(name, [])
    return bool(found) and all(
        node.op_type == "QuantizeLinear"
        or (node.op_type in FUSED and _quantized(node.output[0], takers))
        for node in found
    )
