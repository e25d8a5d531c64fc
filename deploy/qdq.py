"""Rewrites of a quantized ONNX graph (Q/DQ form) into the shape a runtime can fuse.

NNCF places Q/DQ in front of Pad and quantizes signed tensors to INT8. ONNX Runtime fuses an
integer convolution only for ``DequantizeLinear -> Conv -> QuantizeLinear`` with one activation
type, so left alone most convolutions would run in float. `unsigned_activations` and `sink_pads`
change what runs, never what comes out. `symmetric_activations` is for TensorRT, which reads
nothing but INT8 with zero point 0, and costs a little precision.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def unsigned_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """INT8 activations as UINT8 with the zero point moved by 128: the same real values.

    Weights are stored, not computed, so they have no QuantizeLinear and stay INT8.
    """
    model = _copy(model)
    arrays = _initializers(model)
    for name in _zero_points(model):
        zero = arrays[name]
        if zero.dtype == np.int8:
            _replace(model, name, (zero.astype(np.int16) + 128).astype(np.uint8))
    return model


def symmetric_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Activations as INT8 with zero point 0, the scale widened to cover the same range.

    A tensor after ReLU loses one bit this way. TensorRT reads no other form.
    """
    model = _copy(model)
    arrays = _initializers(model)
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
        _replace(model, scale_name, widest)
        _replace(model, zero_name, np.zeros_like(zero, dtype=np.int8))
    return model


def sink_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """``Q -> DQ -> Pad`` becomes ``Q -> Pad -> DQ``: bytes are padded instead of floats.

    Exact, because a pad only moves values; where it adds zeros they become the zero point. The
    convolution behind it then reads straight from a DequantizeLinear and fuses.
    """
    model = _copy(model)
    arrays = _initializers(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.op_type == "Pad" else None
        if source is None or source.op_type != "DequantizeLinear" or not _pads_zeros(node, arrays):
            nodes.append(node)
            continue
        quantized, scale, zero = source.input
        mode = _mode(node)
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
    return _with_nodes(model, _live(nodes, model))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without inferred types, which a rewrite would leave stale (and ORT then refuses)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def _initializers(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _replace(model: onnx.ModelProto, name: str, array: NDArray[np.generic]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))


def _zero_points(model: onnx.ModelProto) -> list[str]:
    """Zero points of activations, each once, in graph order."""
    names = (n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear")
    return list(dict.fromkeys(names))


def _mode(pad: onnx.NodeProto) -> str:
    modes = [a.s.decode() for a in pad.attribute if a.name == "mode"]
    return modes[0] if modes else "constant"


def _pads_zeros(pad: onnx.NodeProto, arrays: dict[str, NDArray[np.generic]]) -> bool:
    """Whether a Pad only moves values or adds zeros, so that it commutes with a scale."""
    if _mode(pad) != "constant" or len(pad.input) < 3 or not pad.input[2]:
        return True
    value = arrays.get(pad.input[2])
    return value is not None and not value.any()


def _live(nodes: list[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Without nodes whose results nobody reads (a DequantizeLinear that only a Pad read)."""
    readers: dict[str, int] = defaultdict(int)
    for node in nodes:
        for name in node.input:
            readers[name] += 1
    wanted = {output.name for output in model.graph.output}
    return [n for n in nodes if any(readers[name] or name in wanted for name in n.output)]


def _with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
