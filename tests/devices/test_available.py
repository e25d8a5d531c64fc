"""Which machine is a profile's device, where there is more than one way to be it."""

from __future__ import annotations

import pytest

from devices.machine import available
from devices.profile import load_profile

CPU = ("CPUExecutionProvider",)
GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
NO_TENSORRT = "it has no tensorrt installed"
NO_PROVIDERS = "its onnxruntime has no TensorrtExecutionProvider, CUDAExecutionProvider"


@pytest.fixture
def nano(machine):
    """An Orin Nano 8 GB."""
    is_a = {"architecture": "aarch64", "board": "NVIDIA Jetson Orin Nano Developer Kit"}
    return machine.model_copy(update=is_a)


@pytest.fixture
def installed(monkeypatch):
    """Decides which runtimes can be imported."""

    def install(*names):
        monkeypatch.setattr(
            "devices.machine.importlib.util.find_spec", lambda name: name if name in names else None
        )

    return install


@pytest.mark.parametrize(
    ("runtimes", "providers", "reasons"),
    [
        pytest.param(["tensorrt", "onnxruntime"], GPU, [], id="both"),
        pytest.param(["tensorrt", "onnxruntime"], CPU, [], id="tensorrt, and a CPU's onnxruntime"),
        pytest.param(["tensorrt"], CPU, [], id="tensorrt alone"),
        pytest.param(["onnxruntime"], GPU, [], id="the provider alone"),
        pytest.param(["onnxruntime"], CPU, [NO_TENSORRT, NO_PROVIDERS], id="a CPU's onnxruntime"),
        pytest.param(
            ["onnxruntime"],
            ("CUDAExecutionProvider",),
            [NO_TENSORRT, "its onnxruntime has no TensorrtExecutionProvider"],
            id="half of the providers",
        ),
        pytest.param([], CPU, ["it has no tensorrt or onnxruntime installed"], id="nothing"),
    ],
)
def test_one_runtime_is_enough(nano, installed, runtimes, providers, reasons):
    installed(*runtimes)
    assert available(load_profile("jetson"), nano, providers) == reasons


def test_openvino_alone_makes_a_cpu(machine, installed):
    installed("openvino")
    assert available(load_profile("cpu"), machine, ()) == []


def test_modules_of_one_name_are_told_apart_by_their_memory(nano, installed):
    installed("tensorrt")
    small = nano.model_copy(update={"memory_mib": 3600})
    assert available(load_profile("jetson-orin-nano-4gb"), small, CPU) == []
    assert available(load_profile("jetson"), small, CPU) == [
        "it has 3600 MiB of memory, jetson allows a session 4096"
    ]


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "jetson-xavier-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin-64gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "jetson-thor"),
        ("quill", "jetson-tx2"),
    ],
)
def test_a_board_is_one_profiles_device(machine, installed, board, name):
    installed("tensorrt")
    is_a = {"architecture": "aarch64", "board": board, "memory_mib": 60_000}
    jetsons = ["jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier", "jetson"]
    jetsons += ["jetson-orin-nx-16gb", "jetson-agx-orin-64gb", "jetson-thor"]
    target = machine.model_copy(update=is_a)
    assert [one for one in jetsons if not available(load_profile(one), target, CPU)] == [name]


def test_nothing_is_a_refused_device(machine, installed):
    installed("onnxruntime")
    is_a = machine.model_copy(update={"architecture": "aarch64"})
    (reason,) = available(load_profile("coral-edge-tpu"), is_a, CPU)
    assert reason.startswith("coral-edge-tpu is refused: it runs only what its own")
