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


def per_channel(symmetric=False):
    """The same graph with a range for each of the image's channels."""
    model = quantized("constant")
    scales = np.array([0.004, 0.006, 0.008], np.float32)
    zeros = np.zeros(3, np.int8) if symmetric else np.array([-20, 0, 17], np.int8)
    for tensor in model.graph.initializer:
        if tensor.name == "scale":
            tensor.CopyFrom(numpy_helper.from_array(scales, "scale"))
        if tensor.name == "zero":
            tensor.CopyFrom(numpy_helper.from_array(zeros, "zero"))
    for node in model.graph.node[:2]:
        node.attribute.append(helper.make_attribute("axis", 1))
    onnx.checker.check_model(model, full_check=True)
    return model


def test_one_range_covers_those_of_all_channels():
    model = per_channel()
    collapsed = qdq.collapse_activations(model)
    stored = {t.name: numpy_helper.to_array(t) for t in collapsed.graph.initializer}
    low = min((-128 + 20) * 0.004, -128 * 0.006, (-128 - 17) * 0.008)
    high = max((127 + 20) * 0.004, 127 * 0.006, (127 - 17) * 0.008)
    scale, zero = float(stored["scale"]), int(stored["zero"])
    assert stored["scale"].shape == stored["zero"].shape == ()
    assert (-128 - zero) * scale == pytest.approx(low, abs=scale / 2)
    assert (127 - zero) * scale == pytest.approx(high, abs=scale / 2)
    assert stored["wscale"].shape == (4,), "weights keep theirs"
    onnx.checker.check_model(collapsed, full_check=True)
    (_, coarse), (_, fine) = outputs(collapsed), outputs(model)
    assert 0 < np.abs(coarse - fine).mean() < 0.03, "one step of its quantizer"
    again = qdq.collapse_activations(collapsed)
    assert again.SerializeToString() == collapsed.SerializeToString()


def test_symmetric_channels_collapse_symmetrically():
    collapsed = qdq.collapse_activations(per_channel(symmetric=True))
    stored = {t.name: numpy_helper.to_array(t) for t in collapsed.graph.initializer}
    assert int(stored["zero"]) == 0
    assert float(stored["scale"]) == pytest.approx(0.008)


def test_a_pad_takes_one_zero_point_only():
    """Sinking it under a quantizer with one for each channel would pad with the wrong byte."""
    model = per_channel()
    assert_same(qdq.sink_pads(model), model)
    assert next(n for n in qdq.sink_pads(model).graph.node if n.op_type == "Pad").input[0] == "d"


@pytest.mark.parametrize(
    ("backend", "providers", "dtype", "pad_reads"),
    [
        ("openvino", ("CPUExecutionProvider",), "int8", "d"),
        ("onnxruntime", ("CPUExecutionProvider",), "uint8", "q"),
        ("onnxruntime", ("QNNExecutionProvider",), "uint8", "q"),
        ("onnxruntime", ("TensorrtExecutionProvider", "CUDAExecutionProvider"), "int8", "d"),
        ("tensorrt", ("CPUExecutionProvider",), "int8", "d"),
    ],
)
def test_every_backend_gets_the_form_it_fuses(backend, providers, dtype, pad_reads, make_profile):
    model = per_channel()
    before = model.SerializeToString()
    placed = qdq.for_backend(model, backend, make_profile(execution_providers=providers))
    assert model.SerializeToString() == before
    assert {str(zero.dtype) for zero in zero_points(placed)} == {dtype}
    assert next(n for n in placed.graph.node if n.op_type == "Pad").input[0] == pad_reads
    for zero in zero_points(placed):
        assert zero.size == 1 or backend == "openvino"
        assert pad_reads == "q" or backend == "openvino" or not zero.any()
    if backend == "openvino":
        assert placed.SerializeToString() == before
    onnx.checker.check_model(placed, full_check=True)
