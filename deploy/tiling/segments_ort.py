"""Segments on ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort

from deploy.tiling.sessions import Values
from devices.profile import DeviceProfile, Precision
from devices.session import DeviceError


def open_segment(segment: bytes, profile: DeviceProfile, *, precision: Precision) -> OrtSegment:
    """Load a segment; its precision is in the graph.

    Raises:
        DeviceError: ONNX Runtime cannot read it.
    """
    return OrtSegment(segment, profile)


class OrtSegment:
    """A segment on ONNX Runtime's CPU provider."""

    def __init__(self, segment: bytes, profile: DeviceProfile) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = profile.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # an arena would keep what the largest tile of every segment took
        options.enable_cpu_mem_arena = False
        try:
            self._session = ort.InferenceSession(
                segment, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # one class per error code, with no base of their own
            raise DeviceError(
                f"onnxruntime {ort.__version__} cannot read a segment ({error}); "
                "make the bundle again with pocketgan deploy"
            ) from error
        self._made = [output.name for output in self._session.get_outputs()]

    def run(self, maps: Mapping[str, Values]) -> Mapping[str, Values]:
        """Its outputs by name."""
        made = self._session.run(self._made, dict(maps))
        return dict(zip(self._made, made, strict=True))
