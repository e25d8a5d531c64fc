from __future__ import annotations

import logging
import signal
import threading

import numpy as np
import pytest

from devices.profile import TensorRt, load_profile
from devices.session import DeviceError
from tests.tensorrt.fake import VERSIONS
from tests.tensorrt.models import student
from tests.tensorrt.played import Error, plan_of

WEAK = tuple(v for v in VERSIONS if v.startswith(("8.", "10.3", "10.11")))
STRONG = tuple(v for v in VERSIONS if v not in WEAK)
OLD = tuple(v for v in VERSIONS if v.startswith("8."))
BOARD = TensorRt(version="10.3", compute_capability="8.7", workspace_mib=256)
GRAPHS = {
    "fp32": student(),
    "fp16": student(dtype=np.float16),
    "int8": student(quantized=True),
}


def profile(**board):
    table = TensorRt(**(BOARD.model_dump() | board))
    return load_profile("jetson").model_copy(update={"tensorrt": table, "image_size": 256})


@pytest.fixture
def compiled(install, tmp_path):
    """Compiles a student with a version; gives the plan's path."""

    def run(version, precision="fp32", *, board=None, graph=None):
        rooms = install(version)
        source = tmp_path / "student.onnx"
        source.write_bytes((graph or GRAPHS[precision]).SerializeToString())
        out = tmp_path / "engine"
        out.mkdir(exist_ok=True)
        device = profile(**(board or {}))
        return rooms.builder.compile_onnx(source, device, out, precision=precision)

    return run


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_every_precision(compiled, world, version, precision):
    engine = compiled(version, precision)
    assert engine.name == "engine.plan"
    assert engine.read_bytes() == plan_of(version)
    assert world.asked["parsed"] == GRAPHS[precision].SerializeToString()


@pytest.mark.parametrize("version", VERSIONS)
def test_typing_is_chosen_by_version(compiled, world, version):
    compiled(version)
    if version in WEAK:
        assert world.asked["network_flags"] == ["EXPLICIT_BATCH"]
    elif version.startswith("11"):
        assert world.asked["network_flags"] == []  # always strong; asking is deprecated
    else:
        assert world.asked["network_flags"] == ["STRONGLY_TYPED"]


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", []), ("fp16", ["FP16"]), ("int8", ["FP16", "INT8"])]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_flags_of_precision_are_set_where_typing_is_weak(
    compiled, world, version, precision, flags
):
    compiled(version, precision)
    assert world.asked.get("flags", []) == (flags if version in WEAK else [])


@pytest.mark.parametrize("version", VERSIONS)
def test_float32_is_float32(compiled, world, version):
    compiled(version, "fp32")
    assert world.asked["cleared"] == ["TF32"]
    world.asked.clear()
    compiled(version, "fp16")
    assert "cleared" not in world.asked


def test_bf16_needs_tensorrt_10(compiled, world):
    with pytest.raises(DeviceError, match=r"tensorrt 8\.6\.1 does not compute in bf16"):
        compiled("8.6.1", "bf16", graph=GRAPHS["fp32"])
    compiled("10.3.0", "bf16", graph=GRAPHS["fp32"])
    assert world.asked["flags"] == ["BF16"]


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_wants_a_quantized_graph(compiled, version):
    with pytest.raises(DeviceError, match=r"no QuantizeLinear.*quantize it first"):
        compiled(version, "int8", graph=GRAPHS["fp32"])


@pytest.mark.parametrize("version", STRONG)
def test_a_strong_network_wants_its_precision_in_the_graph(compiled, version):
    with pytest.raises(DeviceError, match=r"weights are float:.*convert it to fp16 first"):
        compiled(version, "fp16", graph=GRAPHS["fp32"])
    with pytest.raises(DeviceError, match=r"weights are float16:.*convert it to fp32 first"):
        compiled(version, "fp32", graph=GRAPHS["fp16"])


@pytest.mark.parametrize("version", WEAK)
def test_a_weak_network_takes_a_float_graph_as_fp16(compiled, world, version):
    compiled(version, "fp16", graph=GRAPHS["fp32"])
    assert world.asked["flags"] == ["FP16"]


@pytest.mark.parametrize("version", ["8.2.5", "8.5.3"])
def test_the_plugin_of_instance_norm_is_held_in_float32(compiled, world, version):
    world.layers = ("CONVOLUTION", "PLUGIN_V2", "ACTIVATION", "PLUGIN_V2")
    compiled(version, "fp16")
    assert world.asked["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    held = [layer.type.name for layer in world.made if "precision" in vars(layer)]
    assert held == ["PLUGIN_V2", "PLUGIN_V2"]
    assert "parser_flags" not in world.asked
    assert "CUDNN" in world.asked["tactics"][0]  # the plugin computes by it


@pytest.mark.parametrize("version", [v for v in VERSIONS if v not in ("8.2.5", "8.5.3")])
def test_instance_norm_is_native_where_it_can_be(compiled, world, version):
    world.layers = ("CONVOLUTION", "NORMALIZATION")
    compiled(version, "fp16")
    assert world.asked["parser_flags"] == ["NATIVE_INSTANCENORM"]
    # its own computation is float32 unless told otherwise, and no input is converted for it
    assert not [layer for layer in world.made if "precision" in vars(layer)]


@pytest.mark.parametrize("version", VERSIONS)
def test_cublas_is_left_out_and_nothing_else(compiled, world, version):
    compiled(version)
    cudnn = ["CUDNN"] if version in OLD else []
    own = [] if version == "8.2.5" else ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]
    assert world.asked["tactics"] == [cudnn + own]


@pytest.mark.parametrize("version", VERSIONS)
def test_scratch_memory_is_the_profiles(compiled, world, version):
    compiled(version)
    if version == "8.2.5":
        assert [thing.max_workspace_size for thing in configs(world)] == [256 << 20]
    else:
        assert world.asked["WORKSPACE"] == [256 << 20]


def configs(world):
    return [thing for thing in world.made if type(thing).__name__ == "IBuilderConfig"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_builder_takes_its_time_where_it_can_be_told(compiled, world, version):
    compiled(version)
    (config,) = configs(world)
    expected = None if version in ("8.2.5", "8.5.3") else 5
    assert vars(config).get("builder_optimization_level") == expected


def test_sizes_are_half_to_twice_the_profiles(compiled, world):
    compiled("10.3.0")
    assert world.asked["sizes"] == [[(1, 3, 128, 128), (1, 3, 256, 256), (1, 3, 512, 512)]]


def test_times_of_kernels_are_kept_and_used_again(compiled, world, tmp_path):
    compiled("10.3.0")
    (kept,) = (tmp_path / "cache" / "tensorrt").iterdir()
    assert kept.name == "timings-10.3.0-orin.cache"
    assert kept.read_bytes() == b"+measured"
    compiled("10.3.0")
    assert world.asked["timings"] == [b"", b"+measured"]
    assert kept.read_bytes() == b"+measured+measured"
    compiled("11.4.0.106")
    assert world.asked["timings"][-1] == b""  # those of another TensorRT do not count


def test_times_that_do_not_fit_are_measured_anew(compiled, world, caplog):
    compiled("10.3.0")
    world.known_timings = False
    compiled("10.3.0")
    assert world.asked["timings"] == [b"", b""]
    assert "timings-10.3.0-orin.cache does not fit this TensorRT" in caplog.text


def test_the_parser_names_the_node(compiled, world):
    world.errors = (Error(7, "head/Pad", "Pad", " mode reflect is not supported\n"),)
    with pytest.raises(
        DeviceError,
        match=r"tensorrt 10\.3\.0 cannot read student\.onnx: node 'head/Pad' \(Pad\): mode reflect "
        r"is not supported; use a student family without it",
    ):
        compiled("10.3.0")
    with pytest.raises(DeviceError, match=r"cannot read student\.onnx: node 7: mode reflect"):
        compiled("8.6.1")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_that_fails_says_what_tensorrt_said(compiled, world, version, tmp_path):
    world.says, world.builds = "Could not find any implementation for node conv_7", False
    with pytest.raises(
        DeviceError,
        match=r"could not build student\.onnx in fp32 for Orin \(Could not find any "
        r"implementation for node conv_7\); .*workspace_mib",
    ):
        compiled(version)
    assert not (tmp_path / "engine" / "engine.plan").exists()


def test_what_tensorrt_says_is_logged(compiled, world, caplog):
    world.says = "odd, but it builds"
    compiled("10.3.0")
    assert ("devices.trt_log", logging.ERROR, "odd, but it builds") in caplog.record_tuples


def test_a_dla_is_told_of_before_the_build(compiled, world, caplog):
    world.dla_cores = 2
    world.layers = ("CONVOLUTION", "NORMALIZATION", "NORMALIZATION", "SLICE", "CONVOLUTION")
    with caplog.at_level("INFO"):
        compiled("10.3.0", "fp16", board={"use_dla": True, "dla_cores": 2})
    assert "DLA runs 2 of 5 layers; on the GPU: NORMALIZATION x2, SLICE x1" in caplog.text
    assert world.asked["flags"] == ["FP16", "GPU_FALLBACK"]
    (config,) = configs(world)
    assert (config.default_device_type.name, config.DLA_core) == ("DLA", 0)
    assert world.asked["sizes"] == [[(1, 3, 256, 256)] * 3]  # a DLA has no dynamic sizes


def test_a_dla_that_runs_nothing_is_warned_of(compiled, world, caplog):
    world.dla_cores, world.dla_runs = 1, ()
    compiled("10.3.0", "int8", board={"use_dla": True, "dla_cores": 1})
    assert "the DLA runs nothing of this student" in caplog.text


def test_a_dla_that_is_not_there(compiled):
    with pytest.raises(
        DeviceError, match=r"wants a DLA and this machine has none.*use_dla = false"
    ):
        compiled("10.3.0", "fp16", board={"use_dla": True, "dla_cores": 1})


def test_a_dla_does_not_compute_in_fp32(compiled, world):
    world.dla_cores = 1
    with pytest.raises(DeviceError, match="a DLA computes in fp16 and int8, not in fp32"):
        compiled("10.3.0", "fp32", board={"use_dla": True, "dla_cores": 1})


def phases(monitor):
    monitor.phase_start("Building", None, 2)
    monitor.phase_start("Timing", "Building", 9)
    assert monitor.step_complete("Timing", 0)
    assert monitor.step_complete("Building", 0)
    monitor.phase_finish("Timing")
    monitor.phase_finish("Building")


@pytest.mark.parametrize("version", [v for v in VERSIONS if v not in OLD])
def test_progress_is_logged_for_the_outermost_phase(compiled, world, caplog, version):
    world.while_building = phases
    with caplog.at_level("INFO"):
        compiled(version)
    told = [r.message for r in caplog.records if r.name.endswith("trt_progress")]
    assert told == ["tensorrt: Building, 2 steps", "tensorrt: Building, 1 of 2"]


def test_ctrl_c_stops_the_build_at_its_next_step(compiled, world, tmp_path):
    steps = []

    def long(monitor):
        for step in range(10_000):
            steps.append(step)
            if step == 3:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            if not monitor.step_complete("Building", step):
                return
            threading.Event().wait(0.001)

    world.while_building = long
    threads = set(threading.enumerate())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever ran before us
    try:
        with pytest.raises(KeyboardInterrupt):
            compiled("10.3.0")
    finally:
        signal.signal(signal.SIGINT, before)
    assert 3 < len(steps) < 9_999
    assert not (tmp_path / "engine" / "engine.plan").exists()
    for one in set(threading.enumerate()) - threads:
        one.join(5)  # a thread that Ctrl-C met at its start ends by itself, at its next step
        assert not one.is_alive()


def test_without_a_gpu_nothing_of_tensorrt_is_called(install, monkeypatch, world, tmp_path):
    def none():
        raise DeviceError("TensorRT needs an NVIDIA GPU")

    builder = install("10.3.0").builder
    monkeypatch.setattr(builder, "this_gpu", none)
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU"):
        builder.compile_onnx(tmp_path / "student.onnx", profile(), tmp_path, precision="fp32")
    assert (world.made, world.asked) == ([], {})
