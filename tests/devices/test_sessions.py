import sys

import numpy as np
import pytest

from devices import openvino as ov_room
from devices import ort as ort_room
from devices.ort import OrtSession
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


@pytest.mark.parametrize(
    ("provider", "what"),
    [
        ("TensorrtExecutionProvider", "install onnxruntime-gpu for this device"),
        ("CUDAExecutionProvider", "install onnxruntime-gpu for this device"),
        ("XnnpackExecutionProvider", "build onnxruntime with --use_xnnpack"),
        ("QNNExecutionProvider", "build onnxruntime with --use_qnn"),
        ("CoreMLExecutionProvider", "install onnxruntime on macOS"),
        ("RknpuExecutionProvider", "an onnxruntime with RknpuExecutionProvider"),
    ],
)
def test_a_missing_provider_is_named_with_its_cure(engine, profile, provider, what):
    wants = profile.model_copy(update={"execution_providers": (provider, "CPUExecutionProvider")})
    with pytest.raises(
        DeviceError,
        match=rf"'cpu' needs {provider}; .* offers .*{what}.*, or choose another profile",
    ):
        OrtSession(engine, wants, precision="int8")


@pytest.mark.parametrize(
    ("first", "threads"), [("CPUExecutionProvider", 3), ("XnnpackExecutionProvider", 1)]
)
def test_xnnpack_has_the_threads_to_itself(engine, profile, monkeypatch, first, threads):
    seen = {}
    cpu = "CPUExecutionProvider"
    real = ort_room.ort.InferenceSession

    def spy(path, options, providers):
        seen["threads"], seen["told"] = options.intra_op_num_threads, dict(providers)
        return real(path, options, providers=[cpu])

    monkeypatch.setattr(ort_room.ort, "InferenceSession", spy)
    monkeypatch.setattr(ort_room, "providers", lambda: [first, cpu])
    board = profile.model_copy(update={"execution_providers": (first, cpu), "threads": 3})
    OrtSession(engine, board, precision="fp32")
    assert seen["threads"] == threads
    assert seen["told"][first].get("intra_op_num_threads") == ("3" if threads == 1 else None)


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

        def set_property(self, properties):
            self._core.set_property(properties)

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


def test_openvino_needs_the_file_only_while_it_is_opened(engine, profile, tmp_path):
    ir = tmp_path / "engine.xml"
    ov_room.ov.save_model(ov_room.ov.Core().read_model(engine), ir)
    session = ov_room.OpenVinoSession(ir, profile, precision="fp32")
    for path in (ir, ir.with_suffix(".bin")):
        path.write_bytes(b"something else")
    for _ in range(2):
        np.testing.assert_allclose(session.run(IMAGES), IMAGES / 2, atol=1e-3)
        other = np.ones((1, 3, 24, 40), dtype=np.float32)
        np.testing.assert_allclose(session.run(other), other / 2, atol=1e-3)
        session.trim()  # what it took for the other size is given back, and taken again


def test_the_stub_applies_its_function():
    np.testing.assert_array_equal(StubSession().run(IMAGES), -IMAGES)
