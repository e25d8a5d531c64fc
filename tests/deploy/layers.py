"""A student with what quantizers stumble over: norms, depthwise layers, ConvTranspose, a sum."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = ["stem", "down", "depthwise", "pointwise", "up", "last"]


def student(*, norm: bool = True) -> onnx.ModelProto:
    """Pad, 7x7, 3x3 stride 2, a separable residual block, ConvTranspose, 7x7, Tanh; 16 channels."""
    rng = np.random.default_rng(0)
    stored: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def store(name: str, array: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(array, name))
        return name

    def add(op: str, name: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv(name: str, source: str, shape: tuple[int, ...], op: str = "Conv", **more: int) -> str:
        channels = shape[1] if op == "ConvTranspose" else shape[0]
        fan_in = shape[0] if op == "ConvTranspose" else int(np.prod(shape[1:]))
        weight = store(f"{name}_w", (rng.normal(size=shape) / fan_in**0.5).astype(np.float32))
        bias = store(f"{name}_b", rng.normal(0, 0.1, channels).astype(np.float32))
        attributes: dict[str, object] = {
            key: [value] * (4 if key == "pads" else 2)
            for key, value in more.items()
            if key != "group"
        }
        if "group" in more:
            attributes["group"] = more["group"]
        return add(op, name, [source, weight, bias], **attributes)

    def normed(name: str, source: str) -> str:
        if not norm:
            return source
        scale = store(f"{name}_scale", rng.uniform(0.5, 1.5, 16).astype(np.float32))
        shift = store(f"{name}_shift", rng.normal(0, 0.1, 16).astype(np.float32))
        return add("InstanceNormalization", name, [source, scale, shift])

    store("three", np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64))
    store("one", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    x = add("Pad", "pad_in", ["image", "three"], mode="reflect")
    x = add("Relu", "relu1", [normed("norm1", conv("stem", x, (16, 3, 7, 7)))])
    x = conv("down", x, (16, 16, 3, 3), strides=2, pads=1)
    skip = add("Relu", "relu2", [normed("norm2", x)])
    x = add("Pad", "pad_block", [skip, "one"], mode="reflect")
    x = normed("norm3", conv("depthwise", x, (16, 1, 3, 3), group=16))
    x = normed("norm4", conv("pointwise", x, (16, 16, 1, 1)))
    x = add("Add", "sum", [skip, x])
    x = conv("up", x, (16, 16, 4, 4), "ConvTranspose", strides=2, pads=1)
    x = add("Relu", "relu3", [normed("norm5", x)])
    x = add("Pad", "pad_out", [x, "three"], mode="reflect")
    x = conv("last", x, (3, 16, 7, 7))
    nodes.append(helper.make_node("Tanh", [x], ["translation"], "tanh"))
    shape = [1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("translation", TensorProto.FLOAT, shape)],
        stored,
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset])
    )
    onnx.checker.check_model(model, full_check=True)
    return model
