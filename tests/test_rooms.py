"""The floor plan: who may be in a room, checked by opening its door in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deploy.main import COMMANDS, ROOMS

HEAVY = ("torch", "torch_pruning", "nncf", "onnx", "openvino", "fastapi", "matplotlib")
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
DOORS = {
    # module: what must not come along when it is imported
    "deploy.main": (
        *HEAVY,
        *RUNTIMES,
        "numpy",
        "pydantic",
        "rich",
        "compress",
        "serving",
        "devices",
    ),
    "deploy.artifacts": (*HEAVY, *RUNTIMES, "cryptography", "compress", "serving"),
    "deploy.manifests": (*HEAVY, *RUNTIMES, "cryptography", "compress", "serving"),
    "deploy.imaging": (*HEAVY, *RUNTIMES, "compress", "serving"),
    "devices.profile": (*HEAVY, *RUNTIMES, "compress", "deploy", "serving"),
    "devices.sealed": (*HEAVY, *RUNTIMES, "cryptography", "compress", "deploy", "serving"),
    "devices.signature": (*HEAVY, *RUNTIMES, "compress", "deploy", "serving"),
    "devices.latency": (*HEAVY, *RUNTIMES, "compress", "deploy", "serving"),
    "serving.app": ("torch", "torch_pruning", "nncf", "onnx", "openvino", "compress", "matplotlib"),
    "compress.cli": (*HEAVY, *RUNTIMES, "serving"),
    "deploy.cli": (*HEAVY, *RUNTIMES, "compress", "serving"),
    "deploy.cache_cli": (*HEAVY, *RUNTIMES, "numpy", "pydantic", "rich", "compress", "serving"),
    "deploy.signing_cli": (*HEAVY, *RUNTIMES, "cryptography", "compress", "serving"),
    "deploy.report_cli": (*HEAVY, *RUNTIMES, "numpy", "pydantic", "rich", "compress", "serving"),
    "devices.cli": (*HEAVY, *RUNTIMES, "compress", "deploy.artifacts", "serving"),
    "devices.check_cli": (*HEAVY, *RUNTIMES, "numpy", "pydantic", "rich", "compress", "serving"),
    "deploy.gate_cli": (*HEAVY, *RUNTIMES, "numpy", "pydantic", "rich", "compress", "serving"),
    # every run of a suite that loads it pays for what comes along
    "deploy.pytest_gate": (*HEAVY, *RUNTIMES, "numpy", "pydantic", "rich", "psutil", "devices"),
    "serving.cli": (*HEAVY, *RUNTIMES, "compress"),
    "serving.translate_cli": (*HEAVY, *RUNTIMES, "numpy", "pydantic", "rich", "compress"),
}


@pytest.mark.parametrize("module", DOORS)
def test_importing_brings_no_stranger(module):
    code = (
        f"import sys, {module}\n"
        f"strangers = {DOORS[module]!r}\n"
        "print(*(name for name in strangers if name in sys.modules))"
    )
    opened = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert opened.returncode == 0, opened.stderr
    assert opened.stdout.split() == []


def test_every_command_has_a_light_door():
    assert {module for module, _ in COMMANDS.values()} <= set(DOORS)


@pytest.mark.parametrize("room", ROOMS)
def test_entering_a_room_runs_nothing(room):
    code = (
        f"import sys; before = set(sys.modules); import {room}; print(*set(sys.modules) - before)"
    )
    opened = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert opened.stdout.split() == [room], opened.stderr
