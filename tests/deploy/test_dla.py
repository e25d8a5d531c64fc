from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.dla import dla_findings


def student(
    node: onnx.NodeProto, weight: tuple[int, ...] = (8, 8, 3, 3), **more: np.ndarray
) -> onnx.ModelProto:
    """One node from x to y, with a weight w; images of 16 x 16."""
    stored = {"w": np.zeros(weight, dtype=np.float32)} | more
    shape = [1, 8, 16, 16]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph)


def layer(name: str, **settings: object) -> onnx.NodeProto:
    return helper.make_node(name, ["x", "w"], ["y"], **settings)


@pytest.mark.parametrize(
    ("node", "weight", "why"),
    [
        (layer("Conv", pads=[1, 1, 1, 1]), (8, 8, 3, 3), None),
        (layer("Conv", strides=[8, 8]), (8, 8, 32, 32), None),
        (layer("Conv", auto_pad="VALID"), (8, 8, 3, 3), None),
        (layer("Conv"), (8, 8, 33, 3), "kernel 33 x 3 is not within 1 to 32"),
        (
            layer("Conv", pads=[3, 3, 3, 3]),
            (8, 8, 3, 3),
            "padding 3 x 3 x 3 x 3 is not below the kernel 3 x 3",
        ),
        (layer("Conv", strides=[9, 1]), (8, 8, 3, 3), "stride 9 x 1 is not within 1 to 8"),
        (layer("Conv", dilations=[33, 1]), (8, 8, 3, 3), "dilation is over 32"),
        (layer("Conv", auto_pad="SAME_UPPER"), (8, 8, 3, 3), "its padding depends on the image"),
        (layer("Conv"), (8200, 8, 1, 1), "8200 channels are over 8192"),
        (layer("ConvTranspose", strides=[2, 2]), (8, 8, 4, 4), None),
        (layer("ConvTranspose", pads=[1, 1, 1, 1]), (8, 8, 4, 4), "padding must be 0"),
        (layer("ConvTranspose", output_padding=[1, 1]), (8, 8, 3, 3), "padding must be 0"),
        (layer("ConvTranspose", group=8), (8, 1, 3, 3), "8 groups must be 1"),
    ],
)
def test_convolutions(node, weight, why):
    found = dla_findings(student(node, weight))
    assert [finding.why for finding in found] == ([f"not on DLA: {why}"] if why else [])


def test_a_weight_that_is_computed():
    node = helper.make_node("Conv", ["x", "x"], ["y"])
    (finding,) = dla_findings(student(node))
    assert finding.why == "not on DLA: its weight is computed"


@pytest.mark.parametrize(
    ("scales", "mode", "why"),
    [
        ([1, 1, 2, 2], "nearest", []),
        ([1, 1, 32, 32], "linear", []),
        ([1, 1, 2, 2], "cubic", ["mode cubic"]),
        ([1, 1, 1.5, 2], "nearest", ["scale 1 x 1 x 1.5 x 2 is not a whole number within 1 to 32"]),
        ([1, 1, 33, 2], "nearest", ["scale 1 x 1 x 33 x 2 is not a whole number within 1 to 32"]),
        ([1, 1, 0, 2], "nearest", ["scale 1 x 1 x 0 x 2 is not a whole number within 1 to 32"]),
    ],
)
def test_resizing(scales, mode, why):
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)
    model = student(node, scales=np.array(scales, dtype=np.float32))
    assert [finding.why for finding in dla_findings(model)] == [f"not on DLA: {one}" for one in why]


def test_resizing_to_a_size_that_is_computed():
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"])
    (finding,) = dla_findings(student(node))
    assert finding.why == "not on DLA: its scale is computed"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("InstanceNormalization", "train a student with batch norm"),
        ("ReduceMean", "let it fall back to the GPU"),
        ("QuantizeLinear", "qdq-translator"),
    ],
)
def test_what_it_does_not_run(name, remedy):
    (finding,) = dla_findings(student(layer(name)))
    assert finding.kind == name
    assert remedy in finding.remedy
    assert not finding.blocking


@pytest.mark.parametrize("name", ["Relu", "Tanh", "Add", "BatchNormalization", "Concat", "Slice"])
def test_what_it_runs(name):
    assert dla_findings(student(layer(name))) == []


def test_a_whole_student_is_counted_by_reason(make_student):
    found = dla_findings(make_student())
    assert [str(finding) for finding in found] == [
        "dynamic dims x2: not on DLA: sizes must be fixed; an engine for a DLA is built for one "
        "image size and takes no other",
        "Pad(reflect) x2: not on DLA: no such layer; use student family `edge`, or let it fall "
        "back to the GPU",
    ]
