"""INT8 by ONNX Runtime's own quantizer, whose Q/DQ its CPU provider fuses without any rewriting."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import shape_inference

from deploy.imaging import RGB, Pixels, PixelSpec
from deploy.ranges import tensor_ranges
from deploy.rewiring import copied

Method = Literal["minmax", "percentile"]
METHODS: tuple[Method, ...] = ("minmax", "percentile")
PERCENTILES: dict[Method, float] = {"minmax": 100.0, "percentile": 99.999}
"""How much of a tensor's values lie inside its range, counted from either end."""
OPERATORS = ("Conv",)
"""What is quantized. ConvTranspose and InstanceNormalization have no integer kernels there; sums
and pads have, but rounding what they read costs more than they gain."""


def by_onnxruntime(
    model: onnx.ModelProto,
    calibration: Pixels,
    *,
    method: Method,
    keep: Sequence[str] = (),
    spec: PixelSpec = RGB,
) -> onnx.ModelProto:
    """Quantize a float student with ONNX Runtime: activations UINT8, weights INT8 per channel.

    Ranges are taken by `deploy.ranges`: the quantizer's own calibrators hold every tensor of every
    image in memory, and print.

    Args:
        model: Float ONNX whose nodes have names (`deploy.quantize.named`); not changed.
        calibration: Inputs as the student will see them, (N, H, W, 3).
        method: Extremes, or a part of the values beyond either end cut off.
        keep: Names of nodes left in float.
        spec: How the student sees pixels.
    """
    with warnings.catch_warnings():
        # deprecations inside the quantization package, which nobody here can mend
        warnings.simplefilter("ignore")
        # here, because it takes as long to import as all the rest
        from onnxruntime import quantization as tool  # noqa: PLC0415
        from onnxruntime.quantization import calibrate, qdq_quantizer  # noqa: PLC0415

        layers = [node for node in model.graph.node if node.op_type in OPERATORS]
        names = {name for node in layers for name in (*node.input, *node.output) if name}
        ranges = tensor_ranges(
            model, sorted(names), calibration, percentile=PERCENTILES[method], spec=spec
        )
        taken = calibrate.TensorsData(
            tool.CalibrationMethod.MinMax,
            {
                name: (np.array(low, np.float32), np.array(high, np.float32))
                for name, (low, high) in ranges.items()
            },
        )
        inferred = shape_inference.infer_shapes(copied(model))
        quantizer: Any = qdq_quantizer.QDQQuantizer(
            inferred,
            per_channel=True,
            reduce_range=False,
            weight_qType=tool.QuantType.QInt8,
            activation_qType=tool.QuantType.QUInt8,
            tensors_range=taken,
            nodes_to_quantize=[],
            nodes_to_exclude=list(keep),
            op_types_to_quantize=list(OPERATORS),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # it appends Q/DQ at the end
        quantized: onnx.ModelProto = quantizer.model.model
    del quantized.metadata_props[:]
    return copied(quantized)
