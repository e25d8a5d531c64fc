"""How long a network takes here: exported, run by ONNX Runtime, and compared with its teacher."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from compress.export import to_onnx
from compress.features import as_generator
from devices.latency import Runner, interleave, timed
from devices.profile import DeviceProfile
from devices.session import open_session

ROUNDS = 7
PER_ROUND = 4


def measured_here(teacher: nn.Module, profile: DeviceProfile) -> Callable[[nn.Module], float]:
    """A stopwatch for students: milliseconds per image at the profile's size and threads.

    Float32 on ONNX Runtime: what is quantized or compiled for another runtime later is faster, but
    not differently ordered. Every student is measured in turn with the teacher, and what counts is
    the median of their ratio: a neighbour on this machine then slows both.

    Args:
        teacher: The yardstick, and what the student will be made from.
        profile: The device; this machine must be one.

    Raises:
        DeviceError: ONNX Runtime is not installed, or lacks the profile's execution providers.
    """
    yardstick = _runner(teacher, profile)
    teacher_ms = statistics.median(yardstick(ROUNDS * PER_ROUND))

    def latency(student: nn.Module) -> float:
        runners = {"teacher": yardstick, "student": _runner(student, profile)}
        samples = interleave(runners, rounds=ROUNDS, per_round=PER_ROUND)
        theirs, ours = (_medians(samples[name]) for name in ("teacher", "student"))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        return teacher_ms * statistics.median(ratios)

    return latency


def _medians(samples: list[float]) -> list[float]:
    """One number a round."""
    return [
        statistics.median(samples[i : i + PER_ROUND]) for i in range(0, len(samples), PER_ROUND)
    ]


def _runner(network: nn.Module, profile: DeviceProfile) -> Runner:
    step = as_generator(network).multiple
    size = step * -(-profile.image_size // step)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx(network, path)
        session = open_session(path, profile, backend="onnxruntime", precision="fp32")
        noise = np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
        session.run(noise)  # before the file goes
        return timed(session, noise)
