from __future__ import annotations

import pytest

from devices.catalogue import about_machine, facts_of, mode_row
from devices.profile import load_profile

FREE = 100_000.0


@pytest.fixture
def orin(machine, monkeypatch):
    """An AGX Orin in MODE_15W with another TensorRT than the profile's."""
    monkeypatch.setattr("devices.machine.importlib.util.find_spec", lambda name: name)
    return machine.model_copy(
        update={
            "architecture": "aarch64",
            "board": "NVIDIA Jetson AGX Orin Developer Kit",
            "cores": 12,
            "memory_mib": 62_000,
            "power_mode": "MODE_15W",
            "runtimes": {"tensorrt": "10.3.0"},
        }
    )


def test_the_facts_leave_out_what_is_empty():
    facts = facts_of(load_profile("cpu"))
    assert "refused" not in facts
    assert "tensorrt" not in facts
    assert facts["budget"] == "p50 30 ms, p90 45 ms, p99 90 ms"


def test_the_facts_of_a_jetson_and_of_a_provider_with_options():
    assert facts_of(load_profile("jetson-xavier-nx"))["tensorrt"] == (
        "8.5, compute capability 7.2, 512 MiB to build in, 2 DLA"
    )
    told = {"provider_options": {"QNNExecutionProvider": {"soc_model": "60", "vtcm_mb": "8"}}}
    options = facts_of(load_profile("snapdragon").model_copy(update=told))["options"]
    assert options == "QNNExecutionProvider: soc_model=60, vtcm_mb=8"


def test_nobody_promises_a_latency_on_a_refused_device():
    facts = facts_of(load_profile("coral-edge-tpu"))
    assert "budget" not in facts
    assert facts["refused"].startswith("it runs only")


def test_a_row_of_the_power_switch():
    nano = load_profile("jetson-nano")
    assert mode_row(nano.power_modes[0])[:5] == ("5W", "5", "640", "918", "87 / 105 / 175")
    assert mode_row(nano.power_modes[1])[:5] == ("MAXN", "10", "921", "1479", "")


def test_a_machine_that_is_not_the_device(machine):
    (only,) = about_machine(load_profile("jetson"), machine, FREE)
    assert only.startswith("no: it is x86_64, jetson is aarch64; its board is unknown")


def test_the_device_tells_the_budget_of_its_power_mode(orin):
    told = list(about_machine(load_profile("jetson-agx-orin-64gb"), orin, FREE))
    assert told == ["yes", "power mode MODE_15W: p50 86 ms, p90 104 ms, p99 172 ms"]


@pytest.mark.parametrize(
    ("change", "free_mib", "told"),
    [
        ({"power_mode": "custom"}, FREE, "power mode custom is not in the profile (MODE_15W, "),
        ({"cores": 3}, FREE, "it has 3 cores and sessions use 4 threads"),
        ({}, 900.0, "900 MiB are free, 8192 are allowed: stop other programs"),
        (
            {"runtimes": {"tensorrt": "10.30"}},
            FREE,
            "it has TensorRT 10.30, the profile is of 10.3; change it in a copy",
        ),
    ],
)
def test_what_would_disturb_a_measurement(orin, change, free_mib, told):
    target = orin.model_copy(update=change)
    said = list(about_machine(load_profile("jetson-agx-orin-64gb"), target, free_mib))
    assert said[0] == "yes"
    assert any(one.startswith(told) for one in said), said
