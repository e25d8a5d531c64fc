"""Small graphs to rewrite, written in ONNX's own text form."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser


def draw(
    body: str, stored: dict[str, np.ndarray] | None = None, *, opset: int = 18
) -> onnx.ModelProto:
    """A model from float ``image`` (1, 3, h, w) to float ``out`` with these nodes and tensors."""
    ir = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    model = parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]> '
        f"student (float[1, 3, h, w] image) => (float[n, c, oh, ow] out) {{ {body} }}"
    )
    for node in model.graph.node:
        node.name = f"{node.op_type.lower()}_{node.output[0]}"
    arrays = stored or {}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return model


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Random weights that keep the size of activations."""
    rng = np.random.default_rng([seed, *shape])
    fan_in = max(1, int(np.prod(shape[1:])))
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    """Stored whole numbers."""
    return np.array(numbers, dtype=np.int64)


def images(height: int, width: int, *, count: int = 1, channels: int = 3) -> np.ndarray:
    """Random images in [-1, 1]."""
    rng = np.random.default_rng([height, width])
    return rng.uniform(-1, 1, (count, channels, height, width)).astype(np.float32)


def operators(model: onnx.ModelProto) -> list[str]:
    """Operators in the order they run."""
    return [node.op_type for node in model.graph.node]


def check(model: onnx.ModelProto) -> None:
    """Valid, nothing stale, nothing stored that nobody reads."""
    onnx.checker.check_model(model, full_check=True)
    assert not model.graph.value_info
    read = {name for node in model.graph.node for name in node.input}
    read.update(value.name for value in model.graph.output)
    assert {tensor.name for tensor in model.graph.initializer} <= read
