"""On a machine with a GPU and TensorRT: what is built there runs there. It never has, so far."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from devices.cuda import this_gpu
from devices.profile import load_profile
from devices.session import DeviceError, open_session
from tests.tensorrt.models import student

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture
def builder(monkeypatch, tmp_path):
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("tensorrt is not installed")
    try:
        this_gpu()
    except DeviceError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("POCKETGAN_CACHE", str(tmp_path / "cache"))
    return pytest.importorskip("deploy.backends.trt")


def test_a_plan_gives_the_images_of_its_onnx(builder, tmp_path):
    model = student()
    weight = np.random.default_rng(0).normal(0, 0.1, (3, 3, 3, 3)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    source = tmp_path / "student.onnx"
    source.write_bytes(model.SerializeToString())
    profile = load_profile("jetson").model_copy(update={"image_size": 64})
    plan = builder.compile_onnx(source, profile, tmp_path, precision="fp32")
    session = open_session(plan, profile, backend="tensorrt", precision="fp32")
    reference = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    for side in (64, 32, 128):
        images = np.random.default_rng(side).uniform(-1, 1, (1, 3, side, 64)).astype(np.float32)
        (expected,) = reference.run(None, {"x": images})
        np.testing.assert_allclose(session.run(images), expected, atol=1e-4)
