"""Build for a deep-learning accelerator (DLA), and say beforehand what it leaves to the GPU."""

from __future__ import annotations

import logging
from collections import Counter

import tensorrt as trt

from devices.profile import Precision
from devices.session import DeviceError

log = logging.getLogger(__name__)

CORE = 0


def use_dla(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    precision: Precision,
) -> Counter[str]:
    """Give the first DLA core every layer that it can run, and the GPU the others.

    Returns:
        How many layers of each type fall back to the GPU.

    Raises:
        DeviceError: There is no DLA, or it does not compute in ``precision``.
    """
    if builder.num_DLA_cores == 0:
        raise DeviceError(
            "the profile wants a DLA and this machine has none: set use_dla = false in its "
            "[tensorrt] table"
        )
    if precision not in ("fp16", "int8"):
        raise DeviceError(
            f"a DLA computes in fp16 and int8, not in {precision}: choose one of them"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = CORE
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    left = Counter(layer.type.name for layer in layers if not config.can_run_on_DLA(layer))
    kinds = ", ".join(f"{name} x{count}" for name, count in left.most_common()) or "none"
    runs = len(layers) - left.total()
    log.info("DLA runs %d of %d layers; on the GPU: %s", runs, len(layers), kinds)
    if runs == 0:
        log.warning("the DLA runs nothing of this student; every layer is left to the GPU")
    return left
