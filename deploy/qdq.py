"""Rewrites of a quantized ONNX graph (Q/DQ form) into the shape a runtime can fuse.

NNCF places Q/DQ in front of Pad and quantizes signed tensors to INT8. ONNX Runtime fuses an
integer convolution only for ``DequantizeLinear -> Conv -> QuantizeLinear`` with one activation
type, so left alone most convolutions would run in float. `unsigned_activations` and `sink_pads`
change what runs, never what comes out. `symmetric_activations` is for TensorRT, which reads
nothing but INT8 with zero point 0, and costs a little precision.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deploy.passes.padding import pad_mode
from deploy.rewiring import arrays as arrays_of
from deploy.rewiring import copied, producers, replace, with_nodes
from devices.profile import Backend, DeviceProfile


def unsigned_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """INT8 activations as UINT8 with the zero point moved by 128: the same real values.

    Weights are stored, not computed, so they have no QuantizeLinear and stay INT8.
    """
    model = copied(model)
    arrays = arrays_of(model)
    for name in _zero_points(model):
        zero = arrays[name]
        if zero.dtype == np.int8:
            replace(model, name, (zero.astype(np.int16) + 128).astype(np.uint8))
    return model


def symmetric_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Activations as INT8 with zero point 0, the scale widened to cover the same range.

    A tensor after ReLU loses one bit this way. TensorRT reads no other form.
    """
    model = copied(model)
    arrays = arrays_of(model)
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        _, scale_name, zero_name = node.input
        scale, zero = arrays[scale_name].astype(np.float32), arrays[zero_name]
        if zero.dtype == np.int8 and not zero.any():
            continue  # symmetric already
        lowest, highest = (-128, 127) if zero.dtype == np.int8 else (0, 255)
        steps = zero.astype(np.float32)
        widest = np.maximum(steps - lowest, highest - steps) * scale / np.float32(127)
        replace(model, scale_name, widest)
        replace(model, zero_name, np.zeros_like(zero, dtype=np.int8))
    return model


def sink_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """``Q -> DQ -> Pad`` becomes ``Q -> Pad -> DQ``: bytes are padded instead of floats.

    Exact, because a pad only moves values; where it adds zeros they become the zero point. The
    convolution behind it then reads straight from a DequantizeLinear and fuses.
    """
    model = copied(model)
    arrays = arrays_of(model)
    makers = producers(model.graph.node)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = makers.get(node.input[0]) if node.op_type == "Pad" else None
        if source is None or source.op_type != "DequantizeLinear" or not _pads_zeros(node, arrays):
            nodes.append(node)
            continue
        quantized, scale, zero = source.input
        mode = pad_mode(node)
        if mode == "constant" and arrays[zero].size > 1:
            nodes.append(node)  # a byte for each channel, and Pad takes one for all
            continue
        inputs = [quantized, node.input[1]]
        if mode == "constant":
            inputs.append(zero)
        if len(node.input) > 3:
            inputs += [""] * (3 - len(inputs)) + [node.input[3]]
        padded = f"{node.output[0]}_quantized"
        nodes.append(helper.make_node("Pad", inputs, [padded], name=f"{node.name}_sunk", mode=mode))
        dequantize = onnx.NodeProto()
        dequantize.CopyFrom(source)
        dequantize.name = f"{node.name}_dequantize"
        del dequantize.input[:], dequantize.output[:]
        dequantize.input.extend([padded, scale, zero])
        dequantize.output.append(node.output[0])
        nodes.append(dequantize)
    return with_nodes(model, nodes)


def collapse_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Activation quantizers with a range for each channel, as one range that covers them all.

    NNCF makes such ones in front of depthwise convolutions. ONNX Runtime and TensorRT read one
    scale for a tensor only; the channels with narrow ranges become coarser.
    """
    model = copied(model)
    stored = arrays_of(model)
    collapsed = set()
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or stored[node.input[1]].size == 1:
            continue
        _, scale_name, zero_name = node.input
        scale, zero = stored[scale_name].astype(np.float32), stored[zero_name]
        lowest, highest = (-128, 127) if zero.dtype == np.int8 else (0, 255)
        steps = zero.astype(np.float32)
        low = float(np.min((lowest - steps) * scale))
        high = float(np.max((highest - steps) * scale))
        if zero.dtype == np.int8 and not zero.any():
            widest, middle = max(-low, high) / 128, 0  # stays symmetric
        else:
            widest = (high - low) / 255
            middle = min(max(round(lowest - low / widest), lowest), highest)
        replace(model, scale_name, np.asarray(widest, dtype=np.float32))
        replace(model, zero_name, np.asarray(middle, dtype=zero.dtype))
        collapsed.add(scale_name)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in collapsed:
            del node.attribute[:]  # the axis, which a single scale has not
    return model


def for_backend(
    model: onnx.ModelProto, backend: Backend, profile: DeviceProfile
) -> onnx.ModelProto:
    """A Q/DQ graph in the form that a backend fuses into integer kernels.

    OpenVINO takes a graph as NNCF makes it. TensorRT, its own builder or as a provider of ONNX
    Runtime, takes INT8 with zero point 0 and one scale for a tensor. ONNX Runtime's other
    providers take UINT8 activations, one scale for a tensor, and no Pad between a DequantizeLinear
    and its convolution.

    Args:
        model: As a quantizer made it, layers put back in float or islands closed; not changed.
        backend: What will compile it.
        profile: The device; its execution providers say which ONNX Runtime it is.
    """
    kind = fuses_as(backend, profile)
    if kind == "openvino":
        return model
    if kind == "tensorrt":
        return symmetric_activations(collapse_activations(model))
    return sink_pads(unsigned_activations(collapse_activations(model)))


def fuses_as(backend: Backend, profile: DeviceProfile) -> Backend:
    """ONNX Runtime that works through TensorRT fuses what TensorRT fuses."""
    if backend == "onnxruntime" and "TensorrtExecutionProvider" in profile.execution_providers:
        return "tensorrt"
    return backend


def _zero_points(model: onnx.ModelProto) -> list[str]:
    """Zero points of activations, each once, in graph order."""
    names = (n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear")
    return list(dict.fromkeys(names))


def _pads_zeros(pad: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]) -> bool:
    """Whether a Pad only moves values or adds zeros, so that it commutes with a scale."""
    if pad_mode(pad) != "constant" or len(pad.input) < 3 or not pad.input[2]:
        return True
    value = arrays.get(pad.input[2])
    return value is not None and not value.any()
