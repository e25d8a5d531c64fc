"""Segments on OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deploy.tiling.sessions import Values
from devices.openvino import HINTS, cpu_core, reason
from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError
from devices.unreported import unreported

with unreported():
    import openvino as ov


def open_segment(
    segment: bytes, profile: DeviceProfile, *, precision: Precision
) -> OpenVinoSegment:
    """Load a segment.

    Raises:
        DeviceError: OpenVINO cannot read it.
    """
    return OpenVinoSegment(segment, profile, precision)


class OpenVinoSegment:
    """A segment on OpenVINO's CPU plugin, with dynamic height and width."""

    def __init__(self, segment: bytes, profile: DeviceProfile, precision: Precision) -> None:
        core, has_bf16 = cpu_core()
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision] if has_bf16 else "f32",
            "INFERENCE_NUM_THREADS": profile.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = core.read_model(segment)
            self._made = [output.any_name for output in model.outputs]
            self._request = core.compile_model(model, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise DeviceError(
                f"openvino {ov.__version__} cannot read a segment ({reason(error)}); "
                "make the bundle again with pocketgan deploy"
            ) from error

    def run(self, maps: Mapping[str, Values]) -> Mapping[str, Values]:
        """Its outputs by name."""
        made = self._request.infer(dict(maps), share_inputs=True)
        return {name: np.asarray(made[at]) for at, name in enumerate(self._made)}
