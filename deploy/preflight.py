"""Can this student run on that device? Asked before anything is built."""

from __future__ import annotations

import onnx

from deploy import graph
from devices.profile import DeviceProfile

REMEDIES = {
    "InstanceNormalization": "train a student with batch norm, which folds into convolutions",
    "ConvTranspose": "use a student family that upsamples by Resize and a convolution",
    "Pad": "use a student family that pads inside its convolutions",
    "Resize": "use a student family that upsamples by transposed convolutions",
    "DepthToSpace": "use a student family that upsamples by transposed convolutions",
    "Tanh": "end the student in Clip",
}
"""What to do about an operator that a device lacks."""
REMEDY = "choose another student family or another device"


def preflight(model: onnx.ModelProto, profile: DeviceProfile) -> tuple[onnx.ModelProto, str]:
    """Check a student against a profile.

    Returns:
        The student in an opset that the device reads, and a line for people.

    Raises:
        ValueError: The device lacks an operator, reads no such opset, or has too little memory.
    """
    counts = graph.operators(model)
    lacking = [name for name in counts if name in profile.unsupported_operators]
    if lacking:
        named = "; ".join(
            f"{name} ({counts[name]} times): {REMEDIES.get(name, REMEDY)}" for name in lacking
        )
        raise ValueError(f"{profile.name} cannot run {named}")
    model = graph.at_opset(model, profile.opset)
    needed = graph.memory_mib(model, profile.image_size)
    size = f"{profile.image_size} x {profile.image_size}"
    if needed > profile.memory_mib:
        raise ValueError(
            f"the student takes at least {needed:.0f} MiB at {size} and {profile.name} allows "
            f"{profile.memory_mib}: prune it further, or give the profile a smaller image_size"
        )
    summary = (
        f"opset {graph.opset(model)}, {counts.total()} operators of {len(counts)} kinds, "
        f"at least {needed:.0f} of {profile.memory_mib} MiB at {size}"
    )
    return model, summary
