from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from deploy import graph


def saved(model, tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_a_good_student_is_read_whole(make_student, tmp_path):
    model = graph.load_checked(saved(make_student(), tmp_path))
    assert graph.operators(model) == {"Pad": 2, "Conv": 3, "Relu": 1, "Add": 1, "Tanh": 1}
    assert graph.opset(model) == 18
    assert graph.input_name(model) == "image"


@pytest.mark.parametrize(
    "content", [b"", b"this is no model\n", b"\x89PNG\r\n\x1a\n" + bytes(64)], ids=str
)
def test_a_file_that_is_not_onnx(content, tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"student\.onnx is not an ONNX model \({len(content)} b"):
        graph.load_checked(path)


def test_half_an_onnx_file(make_student, tmp_path):
    path = saved(make_student(), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"student\.onnx is not an ONNX model \(\d+ bytes\); make"):
        graph.load_checked(path)


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    tensor.ClearField("raw_data")


def custom(model):
    model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def custom_in_a_subgraph(model):
    inner = helper.make_graph(
        [helper.make_node("Odd", [], ["o"], domain="com.example")], "g", [], []
    )
    model.graph.node.append(
        helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner)
    )


def unknown_operator(model):
    model.graph.node[2].op_type = "Reluu"


def two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3, 8, 8]))


def two_outputs(model):
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 8, 8, 8]))


def gray(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def integers(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def fixed(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "keeps 'w1' in another file; export with external_data=False"),
        (custom, "uses operators that are not standard ONNX (com.example); replace them"),
        (custom_in_a_subgraph, "not standard ONNX (com.example)"),
        (unknown_operator, "is not valid ONNX: No Op registered for Reluu"),
        (two_inputs, "has 2 inputs; a generator has one"),
        (two_outputs, "has 2 outputs; a generator has one"),
        (gray, "input 'image' is float (1, 1, h, w), not float (N, 3, H, W)"),
        (integers, "input 'image' is uint8 (1, 3, h, w), not float"),
        (fixed, "input 'image' is (1, 3, 256, w); height and width must be dynamic"),
    ],
)
def test_a_model_that_is_not_a_student(change, message, make_student, tmp_path):
    model = make_student()
    change(model)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        graph.load_checked(saved(model, tmp_path))
    assert "student.onnx" in str(refused.value)


@pytest.mark.parametrize("axes", [False, True])
@pytest.mark.parametrize("opset", [18, 17, 15, 13, 11])
def test_an_older_opset_says_the_same(opset, axes, make_student, run):
    model = make_student(axes=axes)
    older = graph.at_opset(model, opset)
    assert graph.opset(older) == opset
    assert all(len(node.input) <= 3 for node in older.graph.node) or opset == 18
    images = noise(2, 3, 24, 17)
    np.testing.assert_array_equal(run(older, images), run(model, images))
    assert graph.opset(model) == 18, "the model given is not changed"


def test_a_model_that_is_old_enough_stays_as_it_is(make_student):
    model = make_student()
    assert graph.at_opset(model, 21) is model


@pytest.mark.parametrize("opset", [10, 9])
def test_an_opset_that_cannot_be_reached(opset, make_student):
    with pytest.raises(
        ValueError, match=f"is ONNX opset 18 and cannot be written in opset {opset}"
    ):
        graph.at_opset(make_student(), opset)


def test_memory_is_weights_and_what_lives_at_once(make_student):
    model = make_student()
    weights = sum(len(t.raw_data) for t in model.graph.initializer)
    # the worst moment is Conv 8 -> 8: its padded input, its output, and ReLU's output for the Add
    alive = 4 * (8 * 66 * 66 + 8 * 64 * 64 + 8 * 64 * 64)
    assert graph.memory_mib(model, 64) == pytest.approx((weights + alive) / 2**20)
