"""Import OpenVINO and what builds on it without telling anybody.

Where the package ``openvino_telemetry`` is installed (OpenVINO depends on it) its users report over
the network and write an identity into the home directory. Nobody agreed to that by translating an
image; imported without that package, they stay silent.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

TELEMETRY = "openvino_telemetry"


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """While it lasts, importing the telemetry package fails as if it were not installed."""
    before = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
        if before is not None:
            sys.modules[TELEMETRY] = before
