"""What can be computed once, here, and what does nothing at all."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, shape_inference

from deploy.passes.draft import Array, Draft, border_of, branches, draft, given, setting, twin

CONVOLUTIONS = ("Conv", "ConvTranspose")
KEPT = frozenset(
    {
        # what makes a graph INT8 on the device
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        # another value every time
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"),
        *("Bernoulli", "Multinomial"),
        # no tensors
        *("SequenceConstruct", "SequenceEmpty", "SplitToSequence", "SequenceInsert"),
        *("SequenceErase", "SequenceAt", "ConcatFromSequence", "Optional"),
    }
)
"""Operators that are never computed ahead, even where all they read is stored."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what can be computed once, and without what does nothing.

    Arithmetic on constants and on known shapes is done here by ONNX Runtime. BatchNormalization
    and sums and products with a constant per channel go into the weights of the convolution before
    them, in float64. Older exporters leave all of these in a graph; images change by no more than
    rounding.
    """
    return _fold_affine(_drop_idle(_fold_constants(model)))


def _fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    while True:
        work = draft(model)
        inferred = _inferred(work.model)
        known = set(work.arrays)
        later: list[onnx.NodeProto] = []
        now: list[onnx.NodeProto] = []
        for node in work.model.graph.node:
            measured = _measured(node, inferred)
            if measured is not None:
                # a Constant node, because ONNX Runtime below should find it as one
                value = helper.make_tensor(
                    f"{node.output[0]}_value", TensorProto.INT64, [len(measured)], measured
                )
                now.append(helper.make_node("Constant", [], [node.output[0]], value=value))
                known.add(node.output[0])
            elif (
                node.op_type not in KEPT
                and not branches(node)
                and known.issuperset(name for name in node.input if name)
            ):
                now.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if not now:
            return model
        read = {name for node in later for name in node.input} | work.outputs | work.captured
        made = [name for node in now for name in node.output if name in read]
        for name, array in zip(made, _run(work, now, made), strict=True):
            tensor = onnx.numpy_helper.from_array(array, name)
            work.model.graph.initializer.append(tensor)
        model = work.finish(later)


def _measured(
    node: onnx.NodeProto, inferred: dict[str, tuple[int, list[int | None]]]
) -> list[int] | None:
    """What a Shape node will say, where the shape is known."""
    if node.op_type != "Shape" or node.input[0] not in inferred:
        return None
    dims = inferred[node.input[0]][1][setting(node, "start", 0) : setting(node, "end", None)]
    known = [extent for extent in dims if extent is not None]
    return known if len(known) == len(dims) else None


def _run(work: Draft, nodes: list[onnx.NodeProto], outputs: list[str]) -> list[Array]:
    """Compute nodes that read stored tensors only."""
    read = {name for node in nodes for name in node.input}
    stored = [tensor for tensor in work.model.graph.initializer if tensor.name in read]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "constants", [], results, stored)
    alone = helper.make_model(
        graph, opset_imports=work.model.opset_import, ir_version=work.model.ir_version
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        alone.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(array) for array in session.run(outputs, {})] if outputs else []


def _inferred(model: onnx.ModelProto) -> dict[str, tuple[int, list[int | None]]]:
    """Type and extents of every value whose rank is known; None for an extent that is not."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [
                int(dim.dim_value) if dim.HasField("dim_value") else None
                for dim in value.type.tensor_type.shape.dim
            ],
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def _drop_idle(model: onnx.ModelProto) -> onnx.ModelProto:
    work = draft(model)
    inferred = _inferred(work.model)
    same: dict[str, str] = {}  # value -> the earlier value that it equals
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        node = twin(node)
        node.input[:] = [same.get(name, name) for name in node.input]
        if not _idle(work, node, inferred):
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        if result not in work.outputs and result not in work.captured:
            same[result] = source
        elif source in work.makers and result in work.outputs and work.alone(source):
            # the graph's output keeps its name: whoever made the value makes it under that name
            maker = next(made for made in nodes if source in made.output)
            maker.output[:] = [result if name == source else name for name in maker.output]
        else:
            nodes.append(node)
    return work.finish(nodes)


def _idle(
    work: Draft, node: onnx.NodeProto, inferred: dict[str, tuple[int, list[int | None]]]
) -> bool:
    """Whether a node gives back what it was given."""
    unread = all(not work.uses[name] for name in node.output[1:])
    kind, dims = inferred.get(node.input[0] if node.input else "", (None, []))
    match node.op_type:
        case "Identity":
            return True
        case "Dropout":
            training = work.arrays.get(given(node, 2))
            never = not given(node, 2) or (training is not None and not training.any())
            return unread and never
        case "Cast":
            return bool(kind == setting(node, "to", None))
        case "Transpose":
            perm = list(setting(node, "perm", []))
            return bool(perm) and perm == sorted(perm)
        case "Concat":
            return len(node.input) == 1
        case "Pad":
            return border_of(work, node) == [(0, 0)] * 4
        case "Mul" | "Div" | "Add" | "Sub":
            constant = work.arrays.get(node.input[1])
            neutral = 1 if node.op_type in ("Mul", "Div") else 0
            return (
                constant is not None
                and constant.size == 1
                and constant.ndim <= len(dims)  # else the result would gain an axis
                and bool((constant == neutral).all())
            )
    return False


def _fold_affine(model: onnx.ModelProto) -> onnx.ModelProto:
    work = draft(model)
    layers: dict[str, onnx.NodeProto] = {}  # value -> the convolution that makes it
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        node = twin(node)
        for at, name in enumerate(node.input):
            layer = layers.get(name)
            if layer is None or not work.alone(name):
                continue
            affine = _affine(work, node, at, _channels(work, layer))
            if affine is not None:
                _absorb(work, layer, *affine)
                layer.output[0] = node.output[0]
                layers[node.output[0]] = layer
                break
        else:
            nodes.append(node)
            if node.op_type in CONVOLUTIONS and _stored(work, node):
                layers[node.output[0]] = node
    return work.finish(nodes)


def _stored(work: Draft, layer: onnx.NodeProto) -> bool:
    bias = given(layer, 2)
    weight = work.arrays.get(layer.input[1])
    floating = weight is not None and np.issubdtype(weight.dtype, np.floating)
    return floating and (not bias or bias in work.arrays)


def _channels(work: Draft, layer: onnx.NodeProto) -> int:
    weight = work.arrays[layer.input[1]]
    if layer.op_type == "Conv":
        return int(weight.shape[0])
    return int(weight.shape[1]) * int(setting(layer, "group", 1))


def _affine(
    work: Draft, node: onnx.NodeProto, at: int, channels: int
) -> tuple[Array, Array] | None:
    """(scale, shift), both (C,) float64, of a node that is no more than that to input ``at``."""
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "BatchNormalization":
        statistics = [work.arrays.get(name) for name in node.input[1:5]]
        learning = setting(node, "training_mode", 0) or any(node.output[1:])
        if at != 0 or learning or any(array is None for array in statistics):
            return None
        gamma, beta, mean, variance = (np.float64(a) for a in statistics if a is not None)
        scale = gamma / np.sqrt(variance + setting(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
        return None
    constant = work.arrays.get(node.input[1 - at])
    if constant is None or constant.ndim > 4:
        return None
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if shape[1] not in (1, channels) or math.prod(shape) != shape[1]:
        return None
    value = np.broadcast_to(constant.reshape(-1).astype(np.float64), channels)
    match node.op_type:
        case "Mul":
            return value, zero
        case "Div":
            return (1 / value, zero) if at == 0 and value.all() else None
        case "Add":
            return one, value
    return (one, -value) if at == 0 else (-one, value)


def _absorb(work: Draft, layer: onnx.NodeProto, scale: Array, shift: Array) -> None:
    """Put a scale and a shift of each output channel into a convolution's weights."""
    weight = work.arrays[layer.input[1]]
    bias = work.arrays[layer.input[2]] if given(layer, 2) else np.zeros(len(scale))
    if layer.op_type == "Conv":
        factor = scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # (in, out of one group, ...): the inputs of a group come one after the other
        groups = int(setting(layer, "group", 1))
        factor = scale.reshape(groups, -1).repeat(weight.shape[0] // groups, axis=0)
        factor = factor.reshape(*factor.shape, *[1] * (weight.ndim - 2))
    title = layer.input[1].removesuffix("_folded")
    bias_title = (given(layer, 2) or f"{layer.input[1]}_bias").removesuffix("_folded")
    folded = weight.astype(np.float64) * factor
    shifted = bias.astype(np.float64) * scale + shift
    names = [
        work.store(f"{name}_folded", array.astype(weight.dtype))
        for name, array in ((title, folded), (bias_title, shifted))
    ]
    layer.input[:] = [layer.input[0], *names]
