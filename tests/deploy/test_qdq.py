from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy import qdq


def quantized(mode="reflect", pad_value=None):
    """Q, DQ, Pad, Conv, ReLU, Q, DQ, signed activations; the first DQ has a second reader."""
    rng = np.random.default_rng(0)
    arrays = {
        "scale": np.float32(2 / 255),
        "zero": np.int8(-3),
        "scale2": np.float32(0.03),
        "zero2": np.int8(-128),
        "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "wscale": rng.uniform(1e-3, 4e-3, 4).astype(np.float32),
        "wzero": np.zeros(4, np.int8),
        "bias": rng.normal(size=4).astype(np.float32),
        "border": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    }
    extra = []
    if pad_value is not None:
        arrays["value"] = np.float32(pad_value)
        extra = ["value"]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Pad", ["d", "border", *extra], ["p"], mode=mode),
        helper.make_node("DequantizeLinear", ["w", "wscale", "wzero"], ["dw"], axis=0),
        helper.make_node("Conv", ["p", "dw", "bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "scale2", "zero2"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "scale2", "zero2"], ["d2"]),
        helper.make_node("ReduceMean", ["d2"], ["m"]),
        helper.make_node("Mul", ["d", "m"], ["out"]),
    ]
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
            [
                helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, "h", "w"]),
                helper.make_tensor_value_info("d2", TensorProto.FLOAT, [1, 4, "h", "w"]),
            ],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
            value_info=[helper.make_tensor_value_info("q", TensorProto.INT8, [1, 3, "h", "w"])],
        ),
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL, save=""):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = save
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 12, 9)).astype(np.float32)
    return session.run(None, {"image": image})


def assert_same(one, other):
    for got, wanted in zip(outputs(one), outputs(other), strict=True):
        np.testing.assert_array_equal(got, wanted)


def zero_points(model):
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    names = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    return [arrays[name] for name in sorted(names)]


def test_unsigned_activations_are_exact():
    model = quantized()
    before = model.SerializeToString()
    unsigned = qdq.unsigned_activations(model)
    assert [(z.dtype, int(z)) for z in zero_points(unsigned)] == [("uint8", 125), ("uint8", 0)]
    weights = next(t for t in unsigned.graph.initializer if t.name == "w")
    assert weights.data_type == TensorProto.INT8
    assert_same(unsigned, model)
    assert model.SerializeToString() == before, "the model given is not changed"


@pytest.mark.parametrize(
    ("mode", "value"), [("reflect", None), ("edge", None), ("constant", None), ("constant", 0.0)]
)
def test_sinking_pads_is_exact(mode, value):
    model = quantized(mode, value)
    sunk = qdq.sink_pads(model)
    onnx.checker.check_model(sunk, full_check=True)
    pad = next(node for node in sunk.graph.node if node.op_type == "Pad")
    assert pad.input[0] == "q"
    assert_same(sunk, model)
    assert_same(qdq.sink_pads(qdq.unsigned_activations(model)), model)


def test_a_pad_that_adds_another_value_stays():
    model = quantized("constant", 0.5)
    assert [n.op_type for n in qdq.sink_pads(model).graph.node] == [
        n.op_type for n in model.graph.node
    ]


def test_a_dequantize_with_another_reader_stays_and_an_unread_one_goes():
    model = quantized()
    assert Counter(n.op_type for n in qdq.sink_pads(model).graph.node)["DequantizeLinear"] == 4
    del model.graph.node[-1]
    del model.graph.output[0]
    assert Counter(n.op_type for n in qdq.sink_pads(model).graph.node)["DequantizeLinear"] == 3


def test_the_rewrites_let_onnxruntime_convolve_integers(tmp_path):
    extended = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED

    def fused(model):
        path = str(tmp_path / "fused.onnx")
        outputs(model, extended, path)
        return Counter(node.op_type for node in onnx.load(path).graph.node)["QLinearConv"]

    model = quantized()
    assert fused(model) == 0
    assert fused(qdq.sink_pads(qdq.unsigned_activations(model))) == 1


def test_symmetric_activations_have_zero_points_of_zero_and_nearly_the_same_values():
    model = quantized()
    symmetric = qdq.symmetric_activations(model)
    assert [(z.dtype, int(z)) for z in zero_points(symmetric)] == [("int8", 0), ("int8", 0)]
    scales = {t.name: numpy_helper.to_array(t) for t in symmetric.graph.initializer}
    # the wider half of -128..127 around -3 is 130 steps; -128 as zero leaves 255 steps above
    assert scales["scale"] == pytest.approx(2 / 255 * 130 / 127)
    assert scales["scale2"] == pytest.approx(0.03 * 255 / 127)
    (_, coarse), (_, fine) = outputs(symmetric), outputs(model)
    assert 0 < np.abs(coarse - fine).max() < 0.03 * 255 / 127 + 0.05


def test_what_is_symmetric_already_stays():
    once = qdq.symmetric_activations(quantized())
    assert qdq.symmetric_activations(once).SerializeToString() == once.SerializeToString()
