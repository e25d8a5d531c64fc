"""TensorRT 10.12 and later: the graph says in what is computed, and nothing else can."""

from __future__ import annotations

import tensorrt as trt

from devices.trt_plan import numbers

ALWAYS = (11,)
"""From here on a network is strongly typed without asking, and asking is deprecated."""


def network_flags() -> int:
    """Flags for ``Builder.create_network``."""
    if numbers(trt.__version__) >= ALWAYS:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
