from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from deploy.backends import ort as ort_backend
from devices.session import DeviceError, open_session


@pytest.fixture
def model(make_student, tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(make_student().SerializeToString())
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    return folder


def image():
    return np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)


def test_onnxruntime_writes_one_fused_file(model, out, make_profile, run):
    engine = ort_backend.compile_onnx(model, make_profile(), out, precision="fp32")
    assert list(out.iterdir()) == [engine] == [out / "engine.onnx"]
    fused = Counter(node.op_type for node in onnx.load(engine).graph.node)
    assert fused["FusedConv"] >= 1
    session = open_session(engine, make_profile(), backend="onnxruntime", precision="fp32")
    np.testing.assert_allclose(session.run(image()), run(onnx.load(model), image()), atol=1e-6)


@pytest.mark.parametrize(
    "providers",
    [
        ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        ("XnnpackExecutionProvider", "CPUExecutionProvider"),
        ("QNNExecutionProvider",),
        ("CoreMLExecutionProvider",),
    ],
)
def test_a_provider_that_builds_engines_of_its_own_gets_standard_onnx(
    model, out, make_profile, providers
):
    profile = make_profile(execution_providers=providers)
    engine = ort_backend.compile_onnx(model, profile, out, precision="int8")
    assert engine.read_bytes() == model.read_bytes()


def test_openvino_keeps_the_model(model, out, make_profile, run):
    backend = pytest.importorskip("deploy.backends.openvino", exc_type=ImportError)
    engine = backend.compile_onnx(model, make_profile(), out, precision="fp32")
    assert engine.read_bytes() == model.read_bytes()
    session = open_session(engine, make_profile(), backend="openvino", precision="fp32")
    np.testing.assert_allclose(session.run(image()), run(onnx.load(model), image()), atol=1e-5)


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_a_model_a_runtime_cannot_read(name, model, out, make_profile):
    backend = pytest.importorskip(f"deploy.backends.{name}", exc_type=ImportError)
    broken = onnx.load(model)
    broken.graph.node[2].op_type = "Reluu"
    model.write_bytes(broken.SerializeToString())
    with pytest.raises(DeviceError, match=r"(onnxruntime|openvino) \S+ cannot (compile|read) it"):
        backend.compile_onnx(model, make_profile(), out, precision="fp32")
