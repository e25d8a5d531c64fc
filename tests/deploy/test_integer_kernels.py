"""That INT8 engines really convolve integers, by the runtimes' own account of what they ran."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy.islands import close_islands, open_outputs
from deploy.kernels import integer_kernels
from deploy.qdq import for_backend
from deploy.quantizers.nncf import by_nncf
from deploy.quantizers.ort import by_onnxruntime
from deploy.ranges import quantization, tensor_ranges
from deploy.reverting import quantized_layers, revert
from tests.deploy.layers import student

FOLDED = student(norm=False)
NORMED = student()
ALL = 6
"""Layers of either, one of them a ConvTranspose, which ONNX Runtime computes in float."""


@pytest.fixture(scope="module")
def images(make_photos):
    return make_photos(2, size=64)


@pytest.fixture(scope="module")
def folded(images):
    return by_nncf(FOLDED, images, extremes=False, sums=True)


@pytest.fixture
def counted(tmp_path, make_profile):
    """Integer convolutions, and all, of a graph placed for a backend."""

    def counted(model, backend, *, placed=True):
        engine = tmp_path / "engine.onnx"
        form = for_backend(model, backend, make_profile()) if placed else model
        engine.write_bytes(form.SerializeToString())
        return integer_kernels(engine, backend)

    return counted


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_float_student_has_none(backend, counted):
    assert counted(FOLDED, backend) == (0, ALL)


def test_openvino_convolves_and_deconvolves_integers(folded, counted):
    assert quantized_layers(folded) == ["stem", "down", "depthwise", "pointwise", "up", "last"]
    assert counted(folded, "openvino") == (ALL, ALL)
    assert counted(revert(folded, FOLDED, ["last", "down"]), "openvino") == (ALL - 2, ALL)


def test_onnxruntime_convolves_integers_only_when_placed(folded, counted):
    """All that it can: not the ConvTranspose, nor the last, whose output tanh reads in float."""
    assert counted(folded, "onnxruntime", placed=False) == (2, ALL), "two without a Pad before them"
    assert counted(folded, "onnxruntime") == (ALL - 2, ALL)


def test_its_own_quantizer_needs_no_rewriting(images, counted):
    for model in (FOLDED, NORMED):
        own = by_onnxruntime(model, images, method="percentile")
        assert len(quantized_layers(own)) == ALL - 1
        assert counted(own, "onnxruntime", placed=False) == (ALL - 1, ALL)


def test_closing_islands_makes_more_convolutions_integer(images, counted):
    quantized = by_nncf(NORMED, images, extremes=False)
    beside_a_sum = by_nncf(FOLDED, images, extremes=False)
    assert open_outputs(beside_a_sum) == ["down_out", "pointwise_out"]
    assert counted(beside_a_sum, "onnxruntime") == (2, ALL)
    opened = open_outputs(quantized)
    assert opened == ["stem_out", "down_out", "depthwise_out", "pointwise_out"]
    assert counted(quantized, "onnxruntime") == (0, ALL)
    ranges = tensor_ranges(NORMED, opened, images, percentile=100)
    closed = close_islands(quantized, ranges)
    assert open_outputs(closed) == []
    assert counted(closed, "onnxruntime") == (4, ALL)
    one = close_islands(quantized, {"down_out": ranges["down_out"], "nobody": (0.0, 1.0)})
    assert open_outputs(one) == ["stem_out", "depthwise_out", "pointwise_out"]
    assert counted(one, "onnxruntime") == (1, ALL)


def test_a_backend_that_cannot_be_asked(tmp_path):
    with pytest.raises(ValueError, match="tensorrt chooses its kernels on the device: count them"):
        integer_kernels(tmp_path / "engine.plan", "tensorrt")


def test_ranges_are_those_of_the_values(make_photos):
    """Of a graph that hands the image on, where they are known."""
    images = make_photos(40, size=64)
    model = onnx.ModelProto.FromString(NORMED.SerializeToString())
    seen = images[:32].astype(np.float32) / 127.5 - 1
    exact = tensor_ranges(model, ["image", "pad_in_out", "unknown"], images, percentile=100)
    assert set(exact) == {"image", "pad_in_out"}
    low, high = pytest.approx(seen.min(), abs=1e-5), pytest.approx(seen.max(), abs=1e-5)
    assert exact["image"] == exact["pad_in_out"] == (low, high)
    for percentile in (70, 95, 99.9):
        (cut,) = tensor_ranges(model, ["image"], images, percentile=percentile).values()
        wanted = np.percentile(seen, [100 - percentile, percentile])
        assert cut == pytest.approx(tuple(wanted), abs=0.01)


def test_zero_is_always_in_a_range(images):
    bright = images // 4 + 190
    positive = tensor_ranges(NORMED, ["image"], bright, percentile=99.9)["image"]
    assert positive[0] == 0.0 < positive[1] <= 1.0
    scale, zero = quantization(positive)
    assert (zero, float(scale)) == (0, pytest.approx(positive[1] / 255))
    scale, zero = quantization((-1.0, 3.0))
    assert (-int(zero) * scale, (255 - int(zero)) * scale) == pytest.approx((-1, 3), abs=0.01)
    assert numpy_helper.from_array(np.asarray(zero)).data_type == onnx.TensorProto.UINT8
