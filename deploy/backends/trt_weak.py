"""TensorRT 8.2 to 10.11: flags allow the builder to compute in less than the graph says."""

from __future__ import annotations

import tensorrt as trt

from devices.profile import Precision
from devices.session import DeviceError


def network_flags() -> int:
    """Flags for ``Builder.create_network``; from 10 on the batch is explicit without asking."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def allow(
    config: trt.IBuilderConfig, network: trt.INetworkDefinition, precision: Precision
) -> None:
    """Let the builder compute in ``precision``, and hold InstanceNorm in float32.

    What an INT8 graph leaves in float may run in FP16.

    Raises:
        DeviceError: This TensorRT does not compute in ``precision``.
    """
    if precision == "fp32":
        # TF32 keeps 10 bits of the fraction: the yardstick of the others must be float32
        config.clear_flag(trt.BuilderFlag.TF32)
        return
    if precision == "bf16":
        if not hasattr(trt.BuilderFlag, "BF16"):
            raise DeviceError(
                f"tensorrt {trt.__version__} does not compute in bf16: choose fp16, or TensorRT 10"
            )
        config.set_flag(trt.BuilderFlag.BF16)
    else:
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    hold_norms(config, network)


def hold_norms(config: trt.IBuilderConfig, network: trt.INetworkDefinition) -> None:
    """Keep the sums of InstanceNorm in float32, where they would overflow FP16.

    The parser makes it a plugin before 8.6, the only one it makes of standard operators, and that
    one computes in whatever type it is given. Later it is a layer of TensorRT's own, which
    computes in float32 unless ``compute_precision`` says otherwise (documentation of the layer).
    """
    plugins = [
        layer
        for layer in (network.get_layer(index) for index in range(network.num_layers))
        if layer.type == trt.LayerType.PLUGIN_V2
    ]
    for layer in plugins:
        layer.precision = trt.DataType.FLOAT
    if plugins:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
