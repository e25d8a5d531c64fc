import json
import platform

import pytest

from devices import gpu_probe
from devices.engine_host import (
    PROBE,
    EngineHost,
    Gpu,
    distribution,
    driver_version,
    instructions,
    l4t_release,
    this_engine_host,
    toolkit_version,
)

X86 = (
    "processor\t: 0\nmodel name\t: AMD EPYC 9555\n"
    "flags\t\t: fpu sse sse2 ssse3 fma sse4_1 avx f16c smep avx2 avx512f avx512_vnni avx512_bf16\n"
)
ARM = (
    "processor\t: 0\nFeatures\t: fp asimd aes fphp asimdhp asimdrdm asimddp sve bf16\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
)
ORIN = {
    "name": "Orin",
    "compute_capability": "8.7",
    "multiprocessors": 8,
    "driver_cuda": "12.6",
}


@pytest.fixture
def root(tmp_path):
    """Writes files of a made-up machine, by their paths."""

    def write(files):
        for path, text in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return tmp_path

    return write


def nobody(command):
    return None


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        (X86, ("avx", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "f16c", "fma", "sse4_1")),
        (ARM, ("asimd", "asimddp", "asimdhp", "asimdrdm", "bf16", "fphp", "sve")),
        ("processor : 0\n", ()),
    ],
)
def test_instructions_that_kernels_are_chosen_by(cpuinfo, found):
    assert instructions(cpuinfo) == found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n', "debian 12"),
        ('NAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n', "ubuntu 22.04"),
        ("ID=arch\n", "arch"),
        ("", ""),
    ],
)
def test_the_distribution(text, name):
    assert distribution(text) == name


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
            "DATE: Wed Jan  8 01:49:37 UTC 2025\n",
            "36.4.3",
        ),
        (
            "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n",
            "32.7.1",
        ),
        ("", None),
    ],
)
def test_the_release_of_jetsons_linux(text, release):
    assert l4t_release(text) == release


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
            "540.4.0",
        ),
        ("GCC version:  gcc version 12.2.0\n", None),
        ("", None),
    ],
)
def test_the_driver(text, version):
    assert driver_version(text) == version


@pytest.mark.parametrize(
    ("as_json", "as_text", "version"),
    [
        ('{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}', "", "12.6.68"),
        ("", "CUDA Version 10.2.300\n", "10.2.300"),
        ('{"nvcc": {}}', "", None),
        ("[1]", "", None),
        ("", "", None),
    ],
)
def test_the_cuda_toolkit(as_json, as_text, version):
    assert toolkit_version(as_json, as_text) == version


def test_a_jetson(root):
    folder = root(
        {
            "proc/cpuinfo": ARM,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081\n",
            "etc/os-release": 'ID=ubuntu\nVERSION_ID="22.04"\n',
            "dev/nvhost-gpu": "",
            "usr/local/cuda/version.json": '{"cuda": {"version": "12.6.68"}}',
        }
    )
    asked = []

    def ask(command):
        asked.append(command)
        return json.dumps(ORIN) if str(PROBE) in command else None

    host = this_engine_host(folder, ask)
    assert host.gpu == Gpu(**ORIN)
    assert host.l4t == "36.4.3"
    assert host.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert host.cpu == "Cortex-A78AE"
    assert host.system == f"{platform.system()} ubuntu 22.04"
    assert host.cuda_runtime.endswith("toolkit 12.6.68")
    assert host.driver is None
    assert len([command for command in asked if str(PROBE) in command]) == 1
    assert EngineHost.model_validate_json(host.model_dump_json()) == host


def test_where_no_driver_is_no_probe_is_started(root):
    asked = []

    def ask(command):
        asked.append(command[0])

    host = this_engine_host(root({"proc/cpuinfo": X86}), ask)
    assert asked == ["nvpmodel"]
    assert (host.gpu, host.driver, host.l4t, host.board) == (None, None, None, None)
    assert host.instructions[0] == "avx"
    assert "onnxruntime" in host.runtimes


@pytest.mark.parametrize("answer", [None, "Segmentation fault", '{"name": "half"}'])
def test_a_driver_that_names_no_gpu_is_none_and_is_told(root, caplog, answer):
    folder = root({"proc/driver/nvidia/version": "NVRM version: x Kernel Module  535.1\n"})
    with caplog.at_level("INFO"):
        host = this_engine_host(folder, lambda command: answer)
    assert host.gpu is None
    assert host.driver == "535.1"
    assert "it names no GPU; gpu_probe.py says why" in caplog.text


class FakeCuda:
    """The CUDA driver of an Orin Nano, as far as the probe calls it."""

    def __init__(self, fails=None):
        self.fails = fails

    def __getattr__(self, call):
        def answer(*args):
            if call == self.fails:
                return 35
            if call == "cuDriverGetVersion":
                args[0]._obj.value = 12060
            if call == "cuDeviceGetName":
                args[0].value = b"Orin"
            if call == "cuDeviceGetAttribute":
                args[0]._obj.value = {16: 8, 75: 8, 76: 7}[args[1]]
            return 0

        return answer


def test_the_probe_asks_the_driver():
    assert gpu_probe.look(FakeCuda()) == ORIN


@pytest.mark.parametrize(
    "call",
    ["cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"],
)
def test_the_probe_names_the_call_that_failed(call):
    with pytest.raises(RuntimeError, match=f"{call} failed with CUDA error 35"):
        gpu_probe.look(FakeCuda(fails=call))


def test_the_probe_without_a_driver_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu_probe, "LIBRARY", "libno-such-driver.so.1")
    assert gpu_probe.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "libno-such-driver.so.1" in said.err


def test_the_probe_prints_what_a_gpu_is_read_from(monkeypatch, capsys):
    monkeypatch.setattr(gpu_probe.ctypes, "CDLL", lambda name: FakeCuda())
    assert gpu_probe.main() == 0
    assert Gpu.model_validate_json(capsys.readouterr().out).multiprocessors == 8
