from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from deploy.islands import close_islands, open_outputs
from deploy.qdq import for_backend
from deploy.quantizers.nncf import by_nncf
from deploy.quantizers.ort import by_onnxruntime
from deploy.ranges import tensor_ranges
from deploy.reverting import only, quantized_layers, revert
from deploy.rewiring import arrays
from tests.deploy.layers import LAYERS, student

FLOAT = {"norm": student(), "folded": student(norm=False)}


@pytest.fixture(scope="module")
def made(make_photos):
    """Quantized graphs by every quantizer, and what each was made from."""
    calibration = make_photos(2, size=64)
    graphs = {
        f"nncf {name}": (model, by_nncf(model, calibration, extremes=True, sums=True))
        for name, model in FLOAT.items()
    }
    for name, model in FLOAT.items():
        own = by_onnxruntime(model, calibration, method="minmax")
        graphs[f"onnxruntime {name}"] = (model, own)
    model, nncf = graphs["nncf norm"]
    ranges = tensor_ranges(model, open_outputs(nncf), calibration, percentile=100)
    return graphs | {"closed norm": (model, close_islands(nncf, ranges))}


NAMES = ("nncf norm", "nncf folded", "onnxruntime norm", "onnxruntime folded", "closed norm")
each = pytest.mark.parametrize("name", NAMES)


def outputs(model):
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    # as the graph says, so that equal graphs are equal to the last bit
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    return session.run(None, {"image": image})[0]


def bits(model):
    """Operators in INT8 and in float, and the Q/DQ pairs of activations."""
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


@each
def test_all_layers_reverted_are_the_float_student(name, made):
    float_model, quantized = made[name]
    layers = quantized_layers(quantized)
    whole = revert(quantized, float_model, layers)
    assert list(whole.graph.node) == list(float_model.graph.node)
    assert set(arrays(whole)) == set(arrays(float_model))
    np.testing.assert_array_equal(outputs(whole), outputs(float_model))


@each
def test_only_all_layers_is_the_quantized_graph(name, made):
    float_model, quantized = made[name]
    same = only(quantized, float_model, quantized_layers(quantized))
    np.testing.assert_array_equal(outputs(same), outputs(quantized))
    assert bits(same) == bits(quantized)


@each
def test_one_layer_reverted_and_one_layer_left(name, made):
    float_model, quantized = made[name]
    before = quantized.SerializeToString()
    layers = quantized_layers(quantized)
    wanted, all_wrong = outputs(float_model), np.abs(outputs(quantized) - outputs(float_model))
    for layer in layers:
        one = only(quantized, float_model, [layer])
        assert quantized_layers(one) == [layer]
        assert 0 < np.abs(outputs(one) - wanted).mean() < 1.5 * all_wrong.mean()
        rest = revert(quantized, float_model, [layer])
        assert quantized_layers(rest) == [other for other in layers if other != layer]
        stored = arrays(rest)
        node = next(n for n in rest.graph.node if n.name == layer)
        for mine, theirs in zip(node.input[1:], (f"{layer}_w", f"{layer}_b"), strict=True):
            np.testing.assert_array_equal(stored[mine], arrays(float_model)[theirs])
    assert quantized.SerializeToString() == before


def test_a_layer_in_float_reads_what_nothing_rounded(made):
    """Between Q/DQ and the layer is a Pad; the sum beside it still reads what is rounded."""
    float_model, quantized = made["nncf folded"]
    rest = revert(quantized, float_model, ["depthwise"])
    makers = {name: node for node in rest.graph.node for name in node.output}
    depthwise = next(n for n in rest.graph.node if n.name == "depthwise")
    pad = makers[depthwise.input[0]]
    assert (pad.op_type, pad.input[0]) == ("Pad", "relu2_out")
    total = next(n for n in rest.graph.node if n.name == "sum")
    assert makers[total.input[0]].op_type == "DequantizeLinear"


def test_pairs_go_with_the_last_layer_they_were_for(made):
    float_model, quantized = made["nncf folded"]
    assert bits(only(quantized, float_model, ["last"])) == 1
    assert bits(only(quantized, float_model, ["stem"])) == 1
    # its input, which the sum reads rounded too, and its output, which the sum reads
    assert bits(only(quantized, float_model, ["pointwise"])) == 2


def test_two_layers_share_the_float_pad_in_front_of_them(made):
    float_model, quantized = made["nncf norm"]
    float_model, quantized = (
        onnx.ModelProto.FromString(float_model.SerializeToString()),
        onnx.ModelProto.FromString(quantized.SerializeToString()),
    )
    for model in (float_model, quantized):
        nodes = list(model.graph.node)
        depthwise = next(n for n in nodes if n.name == "depthwise")
        twin = onnx.NodeProto.FromString(depthwise.SerializeToString())
        twin.name, twin.output[0] = "twin", "twin_out"
        both = helper.make_node("Add", ["depthwise_out", "twin_out"], ["both"], "both")
        norm = next(n for n in nodes if n.name == "norm3")
        norm.input[0] = "both"
        at = [n.name for n in nodes].index("depthwise")
        del model.graph.node[:]
        model.graph.node.extend([*nodes[: at + 1], twin, both, *nodes[at + 1 :]])
    rest = revert(quantized, float_model, ["depthwise", "twin"])
    reads = {n.input[0] for n in rest.graph.node if n.name in ("depthwise", "twin")}
    assert len(reads) == 1
    whole = revert(quantized, float_model, quantized_layers(quantized))
    np.testing.assert_array_equal(outputs(whole), outputs(float_model))


def test_quantized_layers_are_those_with_stored_integers(made):
    assert quantized_layers(FLOAT["norm"]) == []
    assert quantized_layers(made["nncf norm"][1]) == LAYERS
    assert quantized_layers(made["onnxruntime norm"][1]) == [n for n in LAYERS if n != "up"]


def test_names_that_are_no_layers(made):
    float_model, quantized = made["onnxruntime norm"]
    with pytest.raises(ValueError, match="no layer 'depthwize'; did you mean 'depthwise'"):
        revert(quantized, float_model, ["depthwize"])
    with pytest.raises(ValueError, match="no layer 'tanh'; "):
        revert(quantized, float_model, ["tanh"])
    with pytest.raises(ValueError, match="no quantized layer 'up'; there are: depthwise, down"):
        only(quantized, float_model, ["up"])
    kept = revert(quantized, float_model, ["up"])
    assert quantized_layers(kept) == quantized_layers(quantized), "it is in float already"


def test_a_placed_graph_is_refused(made, make_profile):
    float_model, quantized = made["nncf folded"]
    placed = for_backend(quantized, "onnxruntime", make_profile())
    with pytest.raises(ValueError, match="before the graph is placed for a backend"):
        revert(placed, float_model, ["depthwise"])
