"""How far a build is, and a way to stop it (TensorRT 10 and later)."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, SupportsInt

import tensorrt as trt

log = logging.getLogger(__name__)


class Progress(trt.IProgressMonitor):  # type: ignore[misc,unused-ignore] # untyped where absent
    """Logs the outermost phase of a build; TensorRT calls it from any of its threads."""

    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self._steps: dict[str, int] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make the build end at its next step."""
        self._stopped.set()

    def phase_start(
        self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt
    ) -> None:
        """A phase begins, inside another or outermost."""
        if parent_phase is None:
            self._steps[phase_name] = int(num_steps)
            log.info("tensorrt: %s, %d steps", phase_name, int(num_steps))

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """A step is done; false ends the build."""
        if phase_name in self._steps:
            log.info("tensorrt: %s, %d of %d", phase_name, int(step) + 1, self._steps[phase_name])
        return not self._stopped.is_set()

    def phase_finish(self, phase_name: str) -> None:
        """A phase is over."""
        self._steps.pop(phase_name, None)


def build(builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig) -> Any:
    """The serialized plan, or None where the build failed.

    TensorRT builds in another thread, so that Ctrl-C arrives in this one and stops it: an exception
    inside its callbacks would end the process.
    """
    progress = Progress()
    config.progress_monitor = progress
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(builder.build_serialized_network, network, config).result()
        except KeyboardInterrupt:  # also while the thread begins
            log.warning("tensorrt: stopping at the next step")
            progress.stop()
            raise
