"""Memory that a student takes on a device, before anything runs there."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
import psutil

from deploy import graph
from deploy.findings import Finding
from devices.profile import DeviceProfile


def free_mib() -> float:
    """Memory of this machine that is free or can be freed at once, in MiB."""
    return float(psutil.virtual_memory().available) / 2**20


def build_mib(model: onnx.ModelProto, profile: DeviceProfile) -> float | None:
    """The most that building a TensorRT engine takes of the memory a board's CPU and GPU share.

    The scratch memory the builder may use, and the weights; None where there is no such board.
    """
    if profile.tensorrt is None or profile.architecture != "aarch64":
        return None
    return profile.tensorrt.workspace_mib + weights_mib(model)


def weights_mib(model: onnx.ModelProto) -> float:
    """The stored weights, in MiB."""
    stored = model.graph.initializer
    return sum(len(one.raw_data) or 4 * math.prod(one.dims) for one in stored) / 2**20


def memory_findings(
    model: onnx.ModelProto, profile: DeviceProfile, free_mib: float | None
) -> Iterator[Finding]:
    """Whether a student fits: what the profile allows, and what the board has free.

    Args:
        model: The student.
        profile: The device.
        free_mib: Memory free on the device, or None where this machine is not it.
    """
    needed = graph.memory_mib(model, profile.image_size)
    size = f"{profile.image_size} x {profile.image_size}"
    student = f"a student of at least {needed:.0f} MiB"
    if needed > profile.memory_mib:
        yield Finding(
            student,
            1,
            f"it takes that at {size} and the profile allows {profile.memory_mib}",
            "prune it further, or give the profile a smaller image_size",
            blocking=True,
        )
    if free_mib is None:
        return
    if needed > free_mib:
        yield Finding(
            student,
            1,
            f"it takes that at {size} and {free_mib:.0f} MiB are free on this board now",
            "stop other programs, or prune it further",
            blocking=True,
        )
    build = build_mib(model, profile)
    if build is not None and build > free_mib:
        yield Finding(
            f"an engine build of up to {build:.0f} MiB",
            1,
            f"CPU and GPU share the {free_mib:.0f} MiB that are free now, and a build that takes "
            "more is killed",
            "stop the server and the desktop, add swap, or lower tensorrt.workspace_mib in the "
            "profile",
        )
