"""What of a machine a compiled engine depends on: another GPU, driver or runtime, another engine.

`devices.machine` says what moves a latency; this says what makes an engine wrong or refused, which
is more about software and the GPU and nothing about clocks.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import sys
from pathlib import Path

from pydantic import PositiveInt, ValidationError

from devices.machine import Ask, ask_program, installed_versions, read_text, this_machine
from devices.profile import Frozen

log = logging.getLogger(__name__)

RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
)
"""Distributions that compile or load an engine."""

CUDA_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu13")

INSTRUCTIONS = re.compile(
    r"sse4|avx|fma$|f16c$|amx|vnni|"  # x86
    r"asimd|fphp$|i8mm$|bf16$|sve|sme(?!p)"  # Arm, and not smep of x86
)
"""Feature flags of /proc/cpuinfo that kernels of neural networks are chosen by."""

GPU_TRACES = ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/nvhost-gpu", "dev/dxg")
"""One of these is there where the CUDA driver may be: desktop, container, Jetson, WSL."""

PROBE = Path(__file__).with_name("gpu_probe.py")


class Gpu(Frozen):
    """A GPU, as its driver names it.

    Attributes:
        compute_capability: ``8.7``.
        multiprocessors: Two devices of one compute capability differ in it, and their engines do.
        driver_cuda: Newest CUDA that the driver runs (``12.6``).
    """

    name: str
    compute_capability: str
    multiprocessors: PositiveInt
    driver_cuda: str


class EngineHost(Frozen):
    """One machine, as far as an engine built on it depends on it.

    Attributes:
        cpu: Model of the CPU.
        architecture: As ``platform.machine()`` prints it.
        instructions: Vector and matrix extensions of the CPU, sorted.
        system: Operating system and release, without the kernel's, which no engine depends on.
        board: What a board calls itself, or None.
        l4t: Release of Jetson's Linux (``36.4.3``), or None.
        runtimes: Installed runtimes and their versions.
        cuda_runtime: Versions of the CUDA runtime, from pip and from the toolkit, or None.
        driver: Version of NVIDIA's kernel module (``535.183.01``), or None where it is not told.
        gpu: The first GPU, or None.
    """

    cpu: str
    architecture: str
    instructions: tuple[str, ...]
    system: str
    board: str | None = None
    l4t: str | None = None
    runtimes: dict[str, str]
    cuda_runtime: str | None = None
    driver: str | None = None
    gpu: Gpu | None = None


def this_engine_host(root: Path = Path("/"), ask: Ask = ask_program) -> EngineHost:
    """Look at the machine this runs on.

    Args:
        root: Where ``proc``, ``etc``, ``dev`` and ``usr`` are.
        ask: Runs a program and returns what it printed.
    """
    machine = this_machine(root, ask)
    return EngineHost(
        cpu=machine.cpu,
        architecture=machine.architecture,
        instructions=instructions(read_text(root / "proc/cpuinfo")),
        system=f"{platform.system()} {distribution(read_text(root / 'etc/os-release'))}".strip(),
        board=machine.board,
        l4t=l4t_release(read_text(root / "etc/nv_tegra_release")),
        runtimes=installed_versions(RUNTIMES),
        cuda_runtime=_cuda_runtime(root / "usr/local/cuda"),
        driver=driver_version(read_text(root / "proc/driver/nvidia/version")),
        gpu=_gpu(root, ask),
    )


def instructions(cpuinfo: str) -> tuple[str, ...]:
    """Extensions from the first ``flags`` (x86) or ``Features`` (Arm) line of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return tuple(sorted({name for name in value.split() if INSTRUCTIONS.match(name)}))
    return ()


def distribution(os_release: str) -> str:
    """``debian 12`` from /etc/os-release; empty where it says nothing."""
    values = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    words = (values.get(name, "").strip("\"'") for name in ("ID", "VERSION_ID"))
    return " ".join(word for word in words if word)


def l4t_release(nv_tegra_release: str) -> str | None:
    """``36.4.3`` from ``# R36 (release), REVISION: 4.3, GCID: ...``."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", nv_tegra_release)
    return f"{found[1]}.{found[2]}" if found else None


def driver_version(nvidia_version: str) -> str | None:
    """``535.183.01`` from the ``NVRM version`` line of /proc/driver/nvidia/version."""
    found = re.search(r"^NVRM version:.*?Kernel Module.*?\s(\d+(?:\.\d+)+)", nvidia_version, re.M)
    return found[1] if found else None


def toolkit_version(version_json: str, version_txt: str) -> str | None:
    """Version of a CUDA toolkit, from ``version.json`` (11.1 and newer) or ``version.txt``."""
    try:
        return str(json.loads(version_json)["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        found = re.search(r"CUDA Version ([\d.]+)", version_txt)
        return found[1] if found else None


def _cuda_runtime(toolkit: Path) -> str | None:
    found = [f"pip {version}" for version in installed_versions(CUDA_RUNTIMES).values()]
    version = toolkit_version(
        read_text(toolkit / "version.json"), read_text(toolkit / "version.txt")
    )
    if version is not None:
        found.append(f"toolkit {version}")
    return ", ".join(found) or None


def _gpu(root: Path, ask: Ask) -> Gpu | None:
    if not any((root / trace).exists() for trace in GPU_TRACES):
        return None  # most machines: no process is started to learn that
    try:
        return Gpu.model_validate_json(ask((sys.executable, "-I", str(PROBE))) or "")
    except ValidationError:
        log.info("an NVIDIA driver is here, but it names no GPU; %s says why", PROBE.name)
        return None
