import pytest

from devices.machine import Machine, available, differences, this_machine
from devices.profile import load_profile

X86 = "processor\t: 0\nmodel name\t: AMD EPYC 9555\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 9555\n"
ARM = (
    "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {0}\n\nprocessor\t: 1\nCPU part\t: {1}\n"
)


@pytest.fixture
def root(tmp_path):
    """Writes files of a made-up kernel."""

    def write(**files):
        for path, text in files.items():
            target = tmp_path / path.replace("__", "/").replace("_", "-")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return tmp_path

    return write


def ask_nobody(command):
    return None


def test_an_x86_machine(root):
    machine = this_machine(root(proc__cpuinfo=X86), ask_nobody)
    assert machine.cpu == "AMD EPYC 9555"
    assert (machine.board, machine.power_mode, machine.governor) == (None, None, None)
    assert machine.cores >= 1
    assert machine.memory_mib > 100
    assert "onnxruntime" in machine.runtimes


@pytest.mark.parametrize(
    ("parts", "cpu"),
    [
        (("0xd0b", "0xd0b"), "Cortex-A76"),
        (("0xd05", "0xd0b"), "Arm part 0xd05 + Cortex-A76"),
    ],
)
def test_an_arm_machine_is_told_by_its_parts(root, parts, cpu):
    assert this_machine(root(proc__cpuinfo=ARM.format(*parts)), ask_nobody).cpu == cpu


def test_a_board_tells_its_model_power_mode_and_governor(root):
    folder = root(
        proc__cpuinfo=ARM.format("0xd42", "0xd42"),
        proc__device_tree__model="NVIDIA Jetson Orin Nano Developer Kit\0",
    )
    governor = folder / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("schedutil\n")
    asked = []

    def ask(command):
        asked.append(tuple(command))
        return "NV Power Mode: 15W\n0\n"

    machine = this_machine(folder, ask)
    assert asked == [("nvpmodel", "-q")]
    assert machine.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (machine.power_mode, machine.governor) == ("15W", "schedutil")


def test_a_real_look_needs_no_tool_of_a_board():
    assert this_machine().fingerprint() == this_machine().fingerprint()


def test_the_fingerprint_stays_while_the_hardware_stays(machine):
    other_day = machine.model_copy(
        update={
            "governor": "powersave",
            "power_mode": "7W",
            "system": "Linux 6.2",
            "runtimes": {},
            "memory_mib": machine.memory_mib + 3,
        }
    )
    assert machine.fingerprint() == other_day.fingerprint()
    assert len(machine.fingerprint()) == 12


@pytest.mark.parametrize(
    "change",
    [{"cpu": "Other"}, {"cores": 4}, {"memory_mib": 16000}, {"board": "x"}],
)
def test_other_hardware_has_another_fingerprint(machine, change):
    assert machine.fingerprint() != machine.model_copy(update=change).fingerprint()


def test_differences_name_what_changed(machine):
    after = machine.model_copy(update={"governor": "powersave"})
    assert differences(machine, machine) == []
    assert differences(machine, after) == ["governor: None before, powersave after"]


def test_a_machine_survives_a_file(machine):
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


PI5 = {"architecture": "aarch64", "board": "Raspberry Pi 5 Model B Rev 1.0"}
NANO = {"architecture": "aarch64", "board": "NVIDIA Jetson Orin Nano Developer Kit"}
CPU = ("CPUExecutionProvider",)
GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("name", "is_a", "providers", "reasons"),
    [
        pytest.param("cpu", {}, CPU, [], id="cpu on x86"),
        pytest.param("raspberrypi5", PI5, CPU, [], id="a Pi 5"),
        pytest.param("jetson", NANO, GPU, [], id="an Orin Nano"),
        pytest.param("jetson-orin-nano-super", NANO, GPU, [], id="an Orin Nano Super"),
        pytest.param("cpu", PI5, CPU, ["it is aarch64, cpu is x86_64"], id="cpu on a Pi"),
        pytest.param(
            "raspberrypi4",
            PI5,
            CPU,
            ["its board is Raspberry Pi 5 Model B Rev 1.0, not Raspberry Pi 4"],
            id="another Pi",
        ),
        pytest.param(
            "raspberrypi5",
            {"architecture": "aarch64"},
            CPU,
            ["its board is unknown, not Raspberry Pi 5"],
            id="an Arm server",
        ),
        pytest.param(
            "jetson",
            NANO,
            CPU,
            [
                "it has no tensorrt installed",
                "its onnxruntime has no TensorrtExecutionProvider, CUDAExecutionProvider",
            ],
            id="an Orin Nano with the wrong wheel",
        ),
        pytest.param(
            "jetson",
            {},
            CPU,
            [
                "it is x86_64, jetson is aarch64",
                "its board is unknown, not Orin Nano",
                "it has no tensorrt installed",
                "its onnxruntime has no TensorrtExecutionProvider, CUDAExecutionProvider",
            ],
            id="jetson on x86",
        ),
    ],
)
def test_why_a_machine_is_not_the_target(machine, name, is_a, providers, reasons):
    target = machine.model_copy(update=is_a)
    assert available(load_profile(name), target, providers) == reasons


def test_a_machine_without_any_runtime(machine, monkeypatch):
    monkeypatch.setattr("devices.machine.importlib.util.find_spec", lambda name: None)
    reasons = available(load_profile("cpu"), machine)
    assert reasons == ["it has no openvino or onnxruntime installed"]
