import sys

import numpy as np
import pytest

from devices import openvino as ov_room
from devices import ort as ort_room
from devices.ort import OrtSession, provider_options
from devices.profile import load_profile
from devices.session import DeviceError, StubSession, onnxruntime_providers, open_session

BACKENDS = ("onnxruntime", "openvino")
IMAGES = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32) * 2 - 1


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def session(engine, profile, backend):
    return open_session(engine, profile, backend=backend, precision="fp32")


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_a_session_translates_any_size(session, size):
    images = np.ones((1, 3, *size), dtype=np.float32)
    translated = session.run(images)
    assert translated.dtype == np.float32
    np.testing.assert_allclose(translated, images / 2)


def test_sizes_may_alternate_and_results_stay(session):
    first = session.run(IMAGES)
    session.run(np.ones((1, 3, 8, 8), dtype=np.float32))
    second = session.run(-IMAGES)
    np.testing.assert_allclose(first, IMAGES / 2)
    np.testing.assert_allclose(second, -IMAGES / 2)


def test_a_view_of_other_pixels_is_read_as_it_looks(session):
    pixels = np.random.default_rng(1).random((1, 16, 16, 3), dtype=np.float32)
    view = pixels.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(session.run(view), view / 2)


def test_a_shape_the_engine_does_not_take(session):
    with pytest.raises(
        DeviceError, match=r"engine\.onnx cannot translate images of shape \(1, 4, 16, 16\)"
    ):
        session.run(np.ones((1, 4, 16, 16), dtype=np.float32))


def test_not_an_onnx_file(tmp_path, profile, backend):
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"\x00this is no model")
    with pytest.raises(DeviceError, match=rf"{backend} .* cannot read .*engine\.onnx .*deploy"):
        open_session(path, profile, backend=backend, precision="fp32")


def test_a_missing_runtime_is_named_with_its_cure(engine, profile, backend, monkeypatch):
    room = {"onnxruntime": "devices.ort", "openvino": "devices.openvino"}[backend]
    monkeypatch.delitem(sys.modules, room)
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(DeviceError, match=rf"not installed: pip install {backend}"):
        open_session(engine, profile, backend=backend, precision="fp32")


def test_no_onnxruntime_has_no_providers(monkeypatch):
    assert "CPUExecutionProvider" in onnxruntime_providers()
    monkeypatch.delitem(sys.modules, "devices.ort")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert onnxruntime_providers() == []


def test_a_missing_provider_is_named_with_its_package(engine):
    with pytest.raises(
        DeviceError, match=r"'jetson' needs TensorrtExecutionProvider.*install onnxruntime-gpu"
    ):
        OrtSession(engine, load_profile("jetson"), precision="int8")


def test_onnxruntime_does_not_spin(engine, profile, monkeypatch):
    seen = {}

    class Options(ort_room.ort.SessionOptions):
        def add_session_config_entry(self, key, value):
            seen[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(ort_room.ort, "SessionOptions", Options)
    OrtSession(engine, profile, precision="fp32")
    assert seen == {"session.intra_op.allow_spinning": "0"}


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"),
    [("fp32", "False", "False"), ("fp16", "True", "False"), ("int8", "True", "True")],
)
def test_tensorrt_computes_in_the_precision_of_the_bundle(engine, precision, fp16, int8):
    options = provider_options("TensorrtExecutionProvider", engine, precision)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)


def test_tensorrt_never_takes_the_engine_of_another_model(engine, tmp_path):
    def cache(path):
        return provider_options("TensorrtExecutionProvider", path, "int8")["trt_engine_cache_path"]

    other = tmp_path / "engine.onnx"
    other.write_bytes(engine.read_bytes())
    before = cache(other)
    assert before.startswith(str(tmp_path / "tensorrt-int8-"))
    other.write_bytes(b"another model")
    assert cache(other) != before


def test_a_read_only_bundle_is_served_without_a_cache(engine, monkeypatch, caplog):
    monkeypatch.setattr(ort_room.os, "access", lambda path, mode: False)
    options = provider_options("TensorrtExecutionProvider", engine, "int8")
    assert "trt_engine_cache_path" not in options
    assert "is read-only" in caplog.text


def test_other_providers_have_no_options(engine):
    assert provider_options("CPUExecutionProvider", engine, "int8") == {}


@pytest.mark.parametrize(
    ("precision", "hint", "capabilities"),
    [
        ("fp32", "f32", ["FP32", "BF16"]),
        ("int8", "bf16", ["FP32", "BF16"]),
        ("int8", "f32", ["FP32"]),
        ("bf16", "bf16", ["FP32", "BF16"]),
    ],
)
def test_openvino_is_told_its_precision_and_threads(
    engine, profile, precision, hint, capabilities, monkeypatch
):
    seen = {}

    real = ov_room.ov.Core

    class Spy:
        def __init__(self):
            self._core = real()

        def get_property(self, device, name):
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return capabilities

        def read_model(self, path):
            return self._core.read_model(path)

        def compile_model(self, model, device, options):
            seen.update(options)
            return self._core.compile_model(model, device, options)

    monkeypatch.setattr(ov_room.ov, "Core", Spy)
    ov_room.OpenVinoSession(engine, profile, precision=precision)
    assert seen["INFERENCE_PRECISION_HINT"] == hint
    assert seen["INFERENCE_NUM_THREADS"] == profile.threads


def test_a_cpu_without_bf16_says_so(engine, profile, monkeypatch):
    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(ov_room.ov, "Core", Core)
    with pytest.raises(DeviceError, match=r"does not compute in bf16: make engine\.onnx in fp32"):
        ov_room.OpenVinoSession(engine, profile, precision="bf16")


def test_openvino_refuses_what_it_cannot_do(engine, profile, tmp_path):
    with pytest.raises(DeviceError, match="computes in fp32, int8, bf16, not in fp16"):
        ov_room.OpenVinoSession(engine, profile, precision="fp16")
    with pytest.raises(DeviceError, match=r"photo\.jpg is not a file openvino reads"):
        ov_room.OpenVinoSession(tmp_path / "photo.jpg", profile, precision="fp32")


def test_openvino_reads_its_own_format(engine, profile, tmp_path):
    ir = tmp_path / "engine.xml"
    ov_room.ov.save_model(ov_room.ov.Core().read_model(engine), ir)
    session = ov_room.OpenVinoSession(ir, profile, precision="fp32")
    np.testing.assert_allclose(session.run(IMAGES), IMAGES / 2, atol=1e-3)


def test_the_stub_applies_its_function():
    np.testing.assert_array_equal(StubSession().run(IMAGES), -IMAGES)
