"""Graphs quantized by hand, with as many bits for each layer as a test wants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def chain(layers: int) -> onnx.ModelProto:
    """So many convolutions of 1 x 1 in a row, each nearly the identity: conv0, conv1, ..."""
    rng = np.random.default_rng(0)
    nodes, stored, x = [], [], "image"
    for index in range(layers):
        weight = np.eye(3) + rng.normal(0, 0.05, (3, 3))
        stored.append(
            numpy_helper.from_array(weight.astype(np.float32)[:, :, None, None], f"w{index}")
        )
        out = "translation" if index == layers - 1 else f"x{index}"
        nodes.append(helper.make_node("Conv", [x, f"w{index}"], [out], f"conv{index}"))
        x = out
    size = [1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("translation", TensorProto.FLOAT, size)],
        stored,
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset])
    )


def quantized(model: onnx.ModelProto, bits: Mapping[str, float]) -> onnx.ModelProto:
    """Q/DQ in front of convolutions and behind their weights, as a quantizer places them.

    Args:
        model: Float.
        bits: For each layer by name how finely its input in [-2, 2] is rounded; it may be broken.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, gone = [], set()
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name in bits:
            name, weight = node.name, arrays[node.input[1]]
            gone.add(node.input[1])
            wscale = np.float32(np.abs(weight).max() / 127)
            stored = {
                f"{name}/scale": np.float32(4 / 2 ** bits[name]),
                f"{name}/zero": np.int8(0),
                f"{name}/w": np.rint(weight / wscale).astype(np.int8),
                f"{name}/wscale": wscale,
            }
            made.graph.initializer.extend(
                numpy_helper.from_array(np.asarray(array), key) for key, array in stored.items()
            )
            pair = [f"{name}/scale", f"{name}/zero"]
            into, out = [node.input[0], *pair], [f"{name}/q"]
            nodes += [
                helper.make_node("QuantizeLinear", into, out, f"{name}/quantize"),
                helper.make_node("DequantizeLinear", [*out, *pair], [f"{name}/d"], f"{name}/deq"),
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}/w", f"{name}/wscale", f"{name}/zero"],
                    [f"{name}/dw"],
                    f"{name}/weights",
                ),
            ]
            copy.input[0], copy.input[1] = f"{name}/d", f"{name}/dw"
        nodes.append(copy)
    kept = [tensor for tensor in made.graph.initializer if tensor.name not in gone]
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.initializer.extend(kept)
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made, full_check=True)
    return made
