"""TensorRT's own messages: into this program's log, and the errors kept for whoever must report."""

from __future__ import annotations

import logging

import tensorrt as trt

logger = logging.getLogger(__name__)

LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.INFO,  # it warns of much that nobody can act on
    "INFO": logging.DEBUG,
}
"""By TensorRT's severity; what is verbose is dropped."""


class Messages(trt.ILogger):  # type: ignore[misc,unused-ignore] # untyped where it is not installed
    """What TensorRT said while it worked.

    Attributes:
        errors: Its errors, oldest first.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # by name, as pybind11 asks of classes that extend its own
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, also from its own threads."""
        level = LEVELS.get(severity.name)
        if level is None:
            return
        logger.log(level, "%s", msg)
        if level == logging.ERROR:
            self.errors.append(msg.strip())

    def said(self) -> str:
        """The last errors, which are the nearest to the cause, on one line."""
        return "; ".join(self.errors[-3:]) or "it gave no reason"
