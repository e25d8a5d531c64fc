"""Small students as ONNX, in the precisions that a builder is given."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def student(*, dtype: type = np.float32, quantized: bool = False) -> onnx.ModelProto:
    """One 3x3 convolution, with Q/DQ before it or weights in another type."""
    weight = np.zeros((3, 3, 3, 3), dtype=dtype)
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])]
    stored = [numpy_helper.from_array(weight, "weight")]
    if quantized:
        stored.append(numpy_helper.from_array(np.float32(0.1), "scale"))
        stored.append(numpy_helper.from_array(np.int8(0), "zero"))
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("Conv", ["d", "weight"], ["y"], pads=[1, 1, 1, 1]),
        ]
    return model(nodes, stored)


def model(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto]) -> onnx.ModelProto:
    """A graph from ``x`` to ``y``, images of any height and width."""
    shape = [1, 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
