"""What this machine is, in the words that decide whether two measurements may be compared."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import PositiveInt

from devices.profile import DeviceProfile, Frozen
from devices.session import onnxruntime_providers

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
"""Distributions whose version can move a latency."""

ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
}
"""``CPU part`` of /proc/cpuinfo, where the kernel prints no model name (Linux cputype.h)."""

Ask = Callable[[Sequence[str]], str | None]
"""Runs a command and returns what it printed, or None where it is absent or fails."""


class Machine(Frozen):
    """One machine, as far as it decides a latency.

    Attributes:
        cpu: Model of the CPU.
        architecture: As ``platform.machine()`` prints it.
        cores: Logical cores this process may use.
        memory_mib: Memory in all, in MiB.
        board: What a board calls itself, or None.
        governor: Frequency governor of the first core, or None where it is not told.
        power_mode: Setting of the board's power switch, or None where there is none.
        system: Operating system and kernel.
        runtimes: Installed runtimes and their versions.
    """

    cpu: str
    architecture: str
    cores: PositiveInt
    memory_mib: PositiveInt
    board: str | None = None
    governor: str | None = None
    power_mode: str | None = None
    system: str
    runtimes: dict[str, str]

    def fingerprint(self) -> str:
        """Twelve hex digits that stay while the hardware stays.

        The governor, the power mode, the kernel and the runtimes can change from one day to the
        next; `differences` names them.
        """
        memory_gib = round(self.memory_mib / 1024)  # a new kernel keeps a few MiB more or less
        stable = f"{self.cpu}|{self.architecture}|{self.cores}|{memory_gib}|{self.board}"
        return hashlib.sha256(stable.encode()).hexdigest()[:12]


def this_machine(root: Path = Path("/"), ask: Ask | None = None) -> Machine:
    """Look at the machine this runs on.

    Args:
        root: Where ``proc`` and ``sys`` are.
        ask: Runs the board's own tool; by default as a subprocess.
    """
    return Machine(
        cpu=_cpu(root / "proc/cpuinfo"),
        architecture=platform.machine(),
        cores=_cores(),
        memory_mib=psutil.virtual_memory().total >> 20,
        board=_line(root / "proc/device-tree/model"),
        governor=_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        power_mode=_power_mode((ask or ask_program)(("nvpmodel", "-q"))),
        system=f"{platform.system()} {platform.release()}",
        runtimes=installed_versions(RUNTIMES),
    )


def differences(before: Machine, after: Machine) -> list[str]:
    """What changed between two looks at a machine, one phrase per field."""
    return [
        f"{name}: {getattr(before, name)} before, {getattr(after, name)} after"
        for name in Machine.model_fields
        if getattr(before, name) != getattr(after, name)
    ]


def available(
    profile: DeviceProfile,
    machine: Machine | None = None,
    providers: Sequence[str] | None = None,
) -> list[str]:
    """Why this machine is not the target of ``profile``; empty where it is.

    One of the profile's runtimes is enough: where TensorRT itself is installed, an ONNX Runtime
    without its TensorRT provider does not matter, and the other way round.

    Args:
        profile: The target.
        machine: What to judge; by default this machine.
        providers: Execution providers that ONNX Runtime offers; by default it is asked.
    """
    machine = machine or this_machine()
    reasons = []
    if profile.refused:
        reasons.append(f"{profile.name} is refused: {profile.refused}")
    if machine.architecture != profile.architecture:
        reasons.append(f"it is {machine.architecture}, {profile.name} is {profile.architecture}")
    if profile.board is not None and profile.board not in (machine.board or ""):
        reasons.append(f"its board is {machine.board or 'unknown'}, not {profile.board}")
    if profile.board is not None and machine.memory_mib < profile.memory_mib:
        # modules of one name come with more memory and with less
        reasons.append(
            f"it has {machine.memory_mib} MiB of memory, {profile.name} allows a session "
            f"{profile.memory_mib}"
        )
    installed = [name for name in profile.backends if importlib.util.find_spec(name)]
    missing: list[str] = []
    if installed == ["onnxruntime"]:  # asking imports it, and any other would do without
        offered = onnxruntime_providers() if providers is None else providers
        missing = [name for name in profile.execution_providers if name not in offered]
    absent = [name for name in profile.backends if name not in installed]
    if absent and (missing or not installed):
        reasons.append(f"it has no {' or '.join(absent)} installed")
    if missing:
        reasons.append(f"its onnxruntime has no {', '.join(missing)}")
    return reasons


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu(cpuinfo: Path) -> str:
    """``model name`` on x86; on Arm the core types by part number."""
    parts: dict[str, None] = {}  # a set that keeps the order: big and little cores
    for line in read_text(cpuinfo).splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            return value
        if key == "CPU part":
            parts[ARM_PARTS.get(value, f"Arm part {value}")] = None
    return " + ".join(parts) or platform.processor() or "unknown CPU"


def _power_mode(answer: str | None) -> str | None:
    """``15W`` from ``NV Power Mode: 15W``."""
    for line in (answer or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "NV Power Mode":
            return value.strip()
    return None


def installed_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of those distributions that are installed, in the order of ``names``."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _line(path: Path) -> str | None:
    """A one-line file of the kernel; the device tree ends its strings with a zero byte."""
    return read_text(path).strip("\0\n ") or None


def read_text(path: Path) -> str:
    """The text of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def ask_program(command: Sequence[str]) -> str | None:
    """What a program prints, or None where it is absent, fails or takes over ten seconds."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout
