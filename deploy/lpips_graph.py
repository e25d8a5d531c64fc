"""LPIPS as an ONNX graph, so that judges and boards need no torch to ask how different images look.

LPIPS v0.1 by AlexNet (Zhang et al., "The unreasonable effectiveness of deep features as a
perceptual metric", 2018): the figure that ``compress`` measures, and that papers report.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
"""Old enough for every runtime; reductions take their axes as an attribute."""
SMALLEST = 31
"""Below this many pixels a side nothing is left for AlexNet's last layers."""
CONVOLUTIONS = (
    # in, out, kernel, stride, padding; and whether it sees a pooled map. AlexNet as in Krizhevsky,
    # "One weird trick for parallelizing convolutional neural networks", 2014
    (3, 64, 11, 4, 2, False),
    (64, 192, 5, 1, 2, True),
    (192, 384, 3, 1, 1, True),
    (384, 256, 3, 1, 1, False),
    (256, 256, 3, 1, 1, False),
)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for images in [-1, 1], as LPIPS has them."""


def build_lpips(weights: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """LPIPS v0.1 by AlexNet as a graph; the same weights give the same bytes.

    Inputs ``images`` and ``references``, (N, 3, H, W) in [-1, 1]; output ``distances``, (N,).

    Args:
        weights: ``conv{i}.weight`` and ``conv{i}.bias`` of the five convolutions, and the heads,
            ``lin{i}.weight`` (1, C, 1, 1).

    Raises:
        ValueError: A tensor is missing or of another shape; the message names it.
    """
    channels = {"shift": SHIFT, "scale": SCALE}
    stored = {
        name: np.array(values, np.float32).reshape(1, 3, 1, 1) for name, values in channels.items()
    }
    stored["epsilon"] = np.array(1e-10, np.float32)
    stored["flat"] = np.array([-1], np.int64)
    for index, (wide_in, wide_out, kernel, *_) in enumerate(CONVOLUTIONS):
        stored |= _tensor(weights, f"conv{index}.weight", (wide_out, wide_in, kernel, kernel))
        stored |= _tensor(weights, f"conv{index}.bias", (wide_out,))
        stored |= _tensor(weights, f"lin{index}.weight", (1, wide_out, 1, 1))
    nodes = [*_trunk("images"), *_trunk("references")]
    for index in range(len(CONVOLUTIONS)):
        at = f"layer{index}"
        nodes += [
            helper.make_node("Sub", [f"images/{at}/unit", f"references/{at}/unit"], [f"{at}/d"]),
            helper.make_node("Mul", [f"{at}/d", f"{at}/d"], [f"{at}/squared"]),
            # a head weighs channels, which is a convolution of 1 x 1
            helper.make_node("Conv", [f"{at}/squared", f"lin{index}.weight"], [f"{at}/seen"]),
            helper.make_node("GlobalAveragePool", [f"{at}/seen"], [f"{at}/mean"]),
        ]
    means = [f"layer{index}/mean" for index in range(len(CONVOLUTIONS))]
    nodes += [
        helper.make_node("Sum", means, ["summed"]),  # (N, 1, 1, 1)
        helper.make_node("Reshape", ["summed", "flat"], ["distances"]),
    ]
    size: list[str | int | None] = ["batch", 3, "height", "width"]
    opset = helper.make_opsetid("", OPSET)
    graph = helper.make_graph(
        nodes,
        "LPIPS v0.1, alexnet",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
            for name in ("images", "references")
        ],
        [helper.make_tensor_value_info("distances", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[opset],
        producer_name="pocketgan",
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    onnx.checker.check_model(model)
    return model


def _trunk(which: str) -> list[onnx.NodeProto]:
    """AlexNet over one input, and each map with its channels scaled to length one."""
    nodes = [
        helper.make_node("Sub", [which, "shift"], [f"{which}/shifted"]),
        helper.make_node("Div", [f"{which}/shifted", "scale"], [f"{which}/scaled"]),
    ]
    x = f"{which}/scaled"
    for index, (_, _, kernel, stride, padding, pooled) in enumerate(CONVOLUTIONS):
        at = f"{which}/layer{index}"
        if pooled:
            into = f"{at}/pooled"
            nodes.append(
                helper.make_node("MaxPool", [x], [into], kernel_shape=[3, 3], strides=[2, 2])
            )
            x = into
        nodes += [
            helper.make_node(
                "Conv",
                [x, f"conv{index}.weight", f"conv{index}.bias"],
                [f"{at}/conv"],
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                pads=[padding] * 4,
            ),
            helper.make_node("Relu", [f"{at}/conv"], [f"{at}/relu"]),
            helper.make_node("ReduceL2", [f"{at}/relu"], [f"{at}/length"], axes=[1]),
            helper.make_node("Add", [f"{at}/length", "epsilon"], [f"{at}/divisor"]),
            helper.make_node("Div", [f"{at}/relu", f"{at}/divisor"], [f"{at}/unit"]),
        ]
        x = f"{at}/relu"
    return nodes


def _tensor(
    weights: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...]
) -> dict[str, NDArray[np.float32]]:
    array = weights.get(name)
    if array is None or array.shape != shape:
        found = "there is none" if array is None else f"it is {array.shape}"
        raise ValueError(f"LPIPS needs {name} of shape {shape}, and {found}")
    return {name: np.ascontiguousarray(array, dtype=np.float32)}
