import pytest

from devices import ort_providers
from devices.ort_providers import COREML, CUDA, QNN, TENSORRT, XNNPACK, provider_options
from devices.profile import TensorRt, load_profile

BOARD = TensorRt(version="10.3", compute_capability="8.7", workspace_mib=256, dla_cores=2)


@pytest.fixture
def profile():
    bare = {"provider_options": {}, "threads": 4, "tensorrt": None}
    return load_profile("cpu").model_copy(update=bare)


@pytest.fixture
def jetson(profile):
    return profile.model_copy(update={"tensorrt": BOARD})


@pytest.mark.parametrize(
    ("name", "precision", "told"),
    [
        ("CPUExecutionProvider", "int8", {}),
        ("RknpuExecutionProvider", "int8", {}),
        (CUDA, "fp32", {"use_tf32": "0"}),
        (CUDA, "fp16", {}),
        (XNNPACK, "fp32", {"intra_op_num_threads": "4"}),
        (COREML, "fp32", {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUOnly"}),
        (COREML, "fp16", {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}),
        (QNN, "fp32", {"backend_path": "libQnnCpu.so", "enable_htp_fp16_precision": "0"}),
        (
            QNN,
            "int8",
            {
                "backend_path": "libQnnHtp.so",
                "htp_performance_mode": "burst",
                "htp_graph_finalization_optimization_mode": "3",
                "enable_htp_fp16_precision": "1",
            },
        ),
    ],
)
def test_what_a_provider_is_told(engine, profile, name, precision, told):
    assert provider_options(name, engine, profile, precision) == told


@pytest.mark.parametrize(
    ("precision", "fp16", "bf16", "int8"),
    [
        ("fp32", "False", "False", "False"),
        ("fp16", "True", "False", "False"),
        ("bf16", "False", "True", "False"),
        ("int8", "True", "False", "True"),
    ],
)
def test_tensorrt_computes_in_the_precision_of_the_bundle(
    engine, profile, precision, fp16, bf16, int8
):
    options = provider_options(TENSORRT, engine, profile, precision)
    assert options["trt_fp16_enable"] == fp16
    assert options["trt_bf16_enable"] == bf16
    assert options["trt_int8_enable"] == int8
    assert "trt_max_workspace_size" not in options


def test_tensorrt_is_held_to_the_board(engine, jetson):
    options = provider_options(TENSORRT, engine, jetson, "int8")
    assert options["trt_max_workspace_size"] == str(256 * 1024 * 1024)
    assert options["trt_builder_optimization_level"] == "5"
    assert options["trt_timing_cache_enable"] == "True"
    assert "trt_dla_enable" not in options


@pytest.mark.parametrize(("precision", "there"), [("int8", True), ("fp16", True), ("fp32", False)])
def test_a_dla_is_used_where_it_is_wanted_and_can(engine, profile, precision, there):
    board = BOARD.model_copy(update={"use_dla": True})
    wants = profile.model_copy(update={"tensorrt": board})
    options = provider_options(TENSORRT, engine, wants, precision)
    assert ("trt_dla_enable" in options, "trt_dla_core" in options) == (there, there)


def test_the_profile_has_the_last_word(engine, jetson):
    own = {TENSORRT: {"trt_builder_optimization_level": "2", "trt_cuda_graph_enable": "True"}}
    told = jetson.model_copy(update={"provider_options": own})
    options = provider_options(TENSORRT, engine, told, "fp16")
    assert options["trt_builder_optimization_level"] == "2"
    assert options["trt_cuda_graph_enable"] == "True"
    assert options["trt_fp16_enable"] == "True"
    assert provider_options(CUDA, engine, told, "fp16") == {}


def test_tensorrt_never_takes_the_engine_of_another_model(engine, tmp_path, jetson):
    def cache(path):
        return provider_options(TENSORRT, path, jetson, "int8")["trt_engine_cache_path"]

    other = tmp_path / "engine.onnx"
    other.write_bytes(engine.read_bytes())
    before = cache(other)
    assert before.startswith(str(tmp_path / "tensorrt-int8-"))
    other.write_bytes(b"another model")
    assert cache(other) != before


def test_a_read_only_bundle_is_served_without_a_cache(engine, monkeypatch, caplog, jetson):
    monkeypatch.setattr(ort_providers.os, "access", lambda path, mode: False)
    options = provider_options(TENSORRT, engine, jetson, "int8")
    assert "trt_engine_cache_path" not in options
    assert "trt_builder_optimization_level" not in options  # the longest build, at every start
    assert "is read-only" in caplog.text
