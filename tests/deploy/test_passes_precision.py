import re
from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from deploy.passes.norms import decompose_norms
from deploy.passes.precision import bfloat16, half
from tests.deploy.drawing import check, draw, images, operators, weight

NORM = {"s": np.float32([1, 2, 0.5, 1.5]), "h": np.float32([0, 0.1, -0.2, 0.3])}


def network(*, opset=18):
    """Everything a student is made of, and a Resize."""
    return draw(
        "a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(image, w1, b1) "
        "n = InstanceNormalization(a, s, h) r = Relu(n) "
        'u = Resize<mode = "nearest">(r, , scales) t = ConvTranspose(u, w2) '
        "l = LeakyRelu<alpha = 0.2>(t) c = Clip(l, low, high) out = Tanh(c)",
        {
            "w1": weight(4, 3, 3, 3),
            "b1": weight(4),
            "w2": weight(4, 3, 1, 1),
            **NORM,
            "scales": np.float32([1, 1, 2, 2]),
            "low": np.float32(-2),
            "high": np.float32(2),
        },
        opset=opset,
    )


def types_of(model):
    """Element type of every value, by onnx's own inference, which refuses mixed operands."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    named = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return named | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def read_by(model, operator):
    """Names of the element types that operators of a kind read."""
    types = types_of(model)
    return {
        TensorProto.DataType.Name(types[name])
        for node in model.graph.node
        if node.op_type == operator
        for name in node.input
        if name
    }


def decibels(ours, theirs):
    return 10 * np.log10(4 / max(1e-12, float(np.mean((ours - theirs) ** 2))))


def exactly(model, image):
    """What onnx's reference computes, every operator in the type it names.

    ONNX Runtime's CPU provider computes graphs of halves in float32.
    """
    return ReferenceEvaluator(model).run(None, {"image": image})[0]


def norm_runs_in_float(model, operators_of_norm):
    return all(read_by(model, operator) <= {"FLOAT", "INT64"} for operator in operators_of_norm)


def test_half_is_half_but_for_the_norm_and_the_door(run):
    model = network()
    before = model.SerializeToString()
    made = half(model)
    check(made)
    assert model.SerializeToString() == before
    for operator in ("Conv", "ConvTranspose", "Relu", "LeakyRelu", "Clip", "Tanh"):
        assert read_by(made, operator) == {"FLOAT16"}
    assert read_by(made, "InstanceNormalization") == {"FLOAT"}
    assert read_by(made, "Resize") == {"FLOAT16", "FLOAT"}, "scales are float32 by the standard"
    assert [v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)] == [1, 1]
    assert Counter(operators(made)) - Counter(operators(model)) == {"Cast": 4}
    for size in ((8, 8), (5, 6)):
        expected = run(model, images(*size))
        assert decibels(run(made, images(*size)), expected) > 60
        assert decibels(exactly(made, images(*size)), expected) > 60


def test_a_decomposed_norm_stays_in_float_too(run):
    model = decompose_norms(network())
    made = half(model)
    check(made)
    assert norm_runs_in_float(made, ("ReduceMean", "Sub", "Sqrt", "Div", "Mul"))
    assert read_by(made, "Add") == {"FLOAT", "FLOAT16"}, "epsilon in float, the shift in half"
    assert Counter(operators(made))["Cast"] == 4
    expected = run(model, images(8, 8))
    assert decibels(run(made, images(8, 8)), expected) > 60
    assert decibels(exactly(made, images(8, 8)), expected) > 60


def test_squares_beyond_half_do_not_overflow(run):
    model = draw(
        "a = Mul(image, far) m = ReduceMean<keepdims = 1>(a, axes) d = Sub(a, m) q = Mul(d, d) "
        "v = ReduceMean<keepdims = 1>(q, axes) r = Sqrt(v) e = Div(d, r) out = Tanh(e)",
        {"far": np.float32(3000), "axes": np.array([2, 3])},
    )
    image = images(16, 16)
    for made in (half(model), bfloat16(model)):
        result = exactly(made, image)
        assert decibels(result, run(model, image)) > 45, "as near as a product by 3000 in bfloat16"


def test_a_sum_after_a_norm_is_half():
    model = draw(
        "n = InstanceNormalization(image, s, h) out = Add(n, image)",
        {"s": weight(3), "h": weight(3)},
    )
    assert read_by(half(model), "Add") == {"FLOAT16"}


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ("out = Identity(image)", {}),
        ("a = Relu(image) b = Cast<to = 6>(a) out = Cast<to = 1>(b)", {}),
        (
            "shape = Shape(image) z = ConstantOfShape<value = float[1] {0.5}>(shape) "
            "out = Add(z, image)",
            {},
        ),
        ("out = InstanceNormalization(image, s, h)", {"s": weight(3), "h": weight(3)}),
        ("a = Relu(image) b = Mul(a, two) out = Add(a, b)", {"two": np.float32(2)}),
        (
            "a = Relu(image) out = Relu(a) b = InstanceNormalization(out, s, h) c = Tanh(b) "
            "d = Add(c, out)",
            {"s": weight(3), "h": weight(3)},
        ),
    ],
    ids=["a door to a door", "integers", "zeros made", "a norm alone", "read twice", "read on"],
)
def test_half_of_odd_graphs(body, stored, run):
    model = draw(body, stored)
    made = half(model)
    onnx.checker.check_model(made, full_check=True)
    types_of(made)
    expected = run(model, images(6, 7))
    assert decibels(run(made, images(6, 7)), expected) > 60
    assert decibels(exactly(made, images(6, 7)), expected) > 60


def quantized(opset, *, step=0.01):
    return draw(
        "q = QuantizeLinear(image, sx, zx) d = DequantizeLinear(q, sx, zx) "
        "w = DequantizeLinear<axis = 0>(wq, sw, zw) "
        "a = Conv<pads = [1, 1, 1, 1]>(d, w, b) r = Relu(a) qr = QuantizeLinear(r, sr, zr) "
        "dr = DequantizeLinear(qr, sr, zr) out = Tanh(dr)",
        {
            "sx": np.float32(1 / 127),
            "zx": np.int8(0),
            "sr": np.float32(step),
            "zr": np.uint8(0),
            "sw": np.float32([step, 2 * step, 0.003, 0.004]),
            "zw": np.zeros(4, np.int8),
            "b": weight(4),
            "wq": np.clip(weight(4, 3, 3, 3) * 400, -127, 127).astype(np.int8),
        },
        opset=opset,
    )


@pytest.mark.parametrize("opset", [21, 19, 18, 13])
def test_what_is_not_integer_becomes_half(opset, run):
    model = quantized(opset)
    made = half(model)
    check(made)
    assert read_by(made, "Conv") == read_by(made, "Relu") == {"FLOAT16"}
    assert read_by(made, "QuantizeLinear") == {"FLOAT16", "INT8", "UINT8"}
    assert Counter(operators(made))["Cast"] == 2, "at the door only"
    assert decibels(run(made, images(8, 8)), run(model, images(8, 8))) > 50  # a step now and then


def test_a_scale_too_fine_for_half_stays_float(run):
    model = quantized(19, step=3e-5)
    made = half(model)
    check(made)
    kinds = {
        name: TensorProto.DataType.Name(tensor.data_type)
        for tensor in made.graph.initializer
        for name in [tensor.name]
    }
    assert kinds["sr"] == kinds["sw"] == "FLOAT"
    assert kinds["sx_half"] == "FLOAT16"
    assert read_by(made, "Conv") == {"FLOAT16"}
    run(made, images(8, 8))


def test_a_weight_beyond_half_is_named():
    model = network()
    heavy = weight(4, 3, 3, 3)
    heavy[1, 2, 0, 0] = -70000
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(heavy, "w1"))
    with pytest.raises(
        ValueError, match=re.escape("'w1' holds 70000, and the largest float16 is 65504; use")
    ):
        half(model)
    assert read_by(bfloat16(model), "Conv") == {"BFLOAT16"}


def test_a_weight_of_a_norm_may_be_beyond_half():
    model = network()
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "s"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1e5] * 4), "s"))
    assert read_by(half(model), "InstanceNormalization") == {"FLOAT"}


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("decomposed", [False, True])
def test_bfloat16_is_the_rounded_network(opset, decomposed, run):
    model = network(opset=opset)
    made = bfloat16(decompose_norms(model) if decomposed else model)
    check(made)
    assert made.opset_import[0].version == 22
    for operator in ("Conv", "ConvTranspose", "Relu", "LeakyRelu", "Clip", "Tanh"):
        assert read_by(made, operator) == {"BFLOAT16"}
    if decomposed:
        assert norm_runs_in_float(made, ("ReduceMean", "Sub", "Sqrt", "Div", "Mul"))
    else:
        assert read_by(made, "InstanceNormalization") == {"FLOAT"}
    # ONNX Runtime has no bfloat16 on the CPU; OpenVINO reads it and computes in float32
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(made.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    image = images(16, 16)
    assert decibels(compiled(image)[0], run(model, image)) > 40
    (stored,) = [t for t in made.graph.initializer if t.name == "w1_bfloat16"]
    rounded = weight(4, 3, 3, 3).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(numpy_helper.to_array(stored), rounded)


@pytest.mark.parametrize("convert", [half, bfloat16])
def test_branches_are_refused(convert):
    model = draw(
        "out = If<then_branch = yes () => (float[n, c, oh, ow] t) {t = Tanh(image)}, "
        "else_branch = no () => (float[n, c, oh, ow] e) {e = Neg(image)}>(flag)",
        {"flag": np.array(True)},
    )
    with pytest.raises(ValueError, match=r"has branches \(If, Loop or Scan\) and cannot be made"):
        convert(model)
