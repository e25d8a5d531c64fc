import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.backends.trt_graph import check_precision, coarsest, sides
from devices.session import DeviceError
from tests.tensorrt.models import model, student


def strided(*operators):
    """A chain of operators, each of stride or factor 2; ``-`` leaves out the attribute."""
    nodes, before = [], "x"
    for at, op in enumerate(operators):
        factor = {"blocksize": 2} if op.endswith("Depth") or op.startswith("Depth") else {}
        if op in ("Conv", "ConvTranspose", "MaxPool"):
            factor = {"strides": [2, 2]}
        after = "y" if at == len(operators) - 1 else f"t{at}"
        name = "SpaceToDepth" if op == "SpaceToDepth" else op
        nodes.append(helper.make_node(name, [before], [after], **factor))
        before = after
    return model(nodes, [])


@pytest.mark.parametrize(
    ("operators", "factor"),
    [
        (("Relu",), 1),
        (("Conv", "Relu", "Conv", "ConvTranspose", "ConvTranspose"), 4),
        (("Conv",) * 8 + ("ConvTranspose",) * 8, 256),
        (("SpaceToDepth", "Conv", "DepthToSpace"), 4),
        (("Conv", "Conv", "Resize", "Conv"), 4),
        (("DepthToSpace", "Conv"), 1),
        (("MaxPool", "Tanh"), 2),
    ],
)
def test_how_far_a_graph_shrinks_an_image(operators, factor):
    assert coarsest(strided(*operators)) == factor


def test_two_ways_to_a_sum_count_as_the_deeper_one():
    nodes = [
        helper.make_node("Conv", ["x"], ["a"], strides=[2, 2]),
        helper.make_node("Add", ["x", "a"], ["b"]),
        helper.make_node("Conv", ["b"], ["y"], strides=[2, 2]),
    ]
    assert coarsest(model(nodes, [])) == 4


@pytest.mark.parametrize(
    ("operators", "size", "expected"),
    [
        (("Conv", "Conv"), 256, (128, 512)),
        (("Conv",) * 8, 256, (256, 512)),  # a U-Net of 8 steps knows nothing below 256
        (("Conv",) * 8, 512, (256, 1024)),
        (("Conv", "Conv"), 100, (52, 200)),
    ],
)
def test_sizes_that_a_plan_is_built_for(operators, size, expected):
    assert sides(strided(*operators), size) == expected


def test_precisions_that_a_graph_has():
    check_precision(student(), "fp32", strong=True)
    check_precision(student(), "fp16", strong=False)
    check_precision(student(dtype=np.float16), "fp16", strong=True)
    check_precision(student(quantized=True), "int8", strong=True)


def test_a_half_graph_may_keep_some_of_its_weights_in_float():
    mixed = student(dtype=np.float16)
    mixed.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "scale of a norm"))
    check_precision(mixed, "fp16", strong=True)
    with pytest.raises(DeviceError, match=r"weights are float, float16: .* convert it to fp32"):
        check_precision(mixed, "fp32", strong=True)


def test_bf16_is_another_half_than_fp16():
    graph = student()
    weight = graph.graph.initializer[0]
    weight.CopyFrom(
        helper.make_tensor("weight", TensorProto.BFLOAT16, weight.dims, np.zeros(81), raw=False)
    )
    check_precision(graph, "bf16", strong=True)
    with pytest.raises(DeviceError, match=r"weights are bfloat16: .*fp16 first"):
        check_precision(graph, "fp16", strong=True)
