"""InstanceNormalization in smaller operators, or left out where another one undoes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from deploy.graph import opset
from deploy.passes.draft import Array, Draft, border_of, draft, given, setting, twin
from deploy.passes.padding import pad_mode

AXES_AS_INPUT = 18
"""Opset since which ReduceMean takes its axes as an input."""
HOMOGENEOUS = ("Relu", "LeakyRelu", "Pad")
"""Operators that pass a positive factor of a channel on."""


def decompose_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """InstanceNormalization as ReduceMean, Sub, Mul, Add, Sqrt and Div.

    The variance is the mean of squared differences from the mean, so that a large mean costs no
    digits. Equal up to rounding. Norms with computed weights stay as they are.
    """
    work = draft(model)
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        norm = _norm(work, node)
        nodes += [node] if norm is None else _decomposed(work, norm)
    return work.finish(nodes)


def cancel_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out InstanceNormalizations that the one behind the next depthwise convolution undoes.

    In ``norm 1 -> 1x1 convolution -> norm 2 -> ReLU -> depthwise convolution -> norm 3`` (every
    residual block of a mobile generator), norm 1 gives each channel a known mean, and so does the
    1x1 convolution: norm 2 subtracts what can be subtracted from its bias. What norm 2 divides by
    is one positive factor for each channel; ReLU, padding and a depthwise convolution pass it on
    and norm 3 divides it out again. Exact but for the epsilons: norm 3 adds its own to a variance
    that norm 2 no longer scales. The weights are scaled so that the variance is about 1 where the
    channels of norm 1 are independent, which keeps the epsilons small beside it.
    """
    work = draft(model)
    undone = [found for node in work.model.graph.node if (found := _undone(work, node)) is not None]
    skipped = {norm.node.output[0]: made.output[0] for made, norm, _ in undone}
    changed = {made.output[0]: _rescaled(work, made, norm, first) for made, norm, first in undone}
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        node = changed.get(node.output[0], node)
        if node.output[0] not in skipped:
            node = twin(node)
            node.input[:] = [skipped.get(name, name) for name in node.input]
            nodes.append(node)
    return work.finish(nodes)


@dataclass(frozen=True)
class Norm:
    """An InstanceNormalization with stored weights."""

    node: onnx.NodeProto
    scale: Array
    shift: Array
    epsilon: float


def _norm(work: Draft, node: onnx.NodeProto | None) -> Norm | None:
    if node is None or node.op_type != "InstanceNormalization":
        return None
    scale, shift = work.arrays.get(node.input[1]), work.arrays.get(node.input[2])
    if scale is None or shift is None:
        return None
    return Norm(node, scale, shift, float(setting(node, "epsilon", 1e-5)))


def _decomposed(work: Draft, norm: Norm) -> list[onnx.NodeProto]:
    node, title = norm.node, norm.node.name or norm.node.output[0]
    nodes: list[onnx.NodeProto] = []

    def make(operator: str, inputs: list[str], what: str, result: str | None = None) -> str:
        output = result or work.fresh(f"{node.output[0]}_{what}")
        name = work.fresh(f"{title}_{what}")
        nodes.append(helper.make_node(operator, inputs, [output], name=name))
        return output

    def mean(source: str, what: str) -> str:
        if opset(work.model) >= AXES_AS_INPUT:
            axes = work.store(f"{node.output[0]}_{what}_axes", np.array([2, 3], dtype=np.int64))
            return make("ReduceMean", [source, axes], what)
        output = make("ReduceMean", [source], what)
        nodes[-1].attribute.append(helper.make_attribute("axes", [2, 3]))
        return output

    def column(array: Array, what: str) -> str:
        # (C, 1, 1) broadcasts over (N, C, H, W)
        return work.store(f"{node.output[0]}_{what}", array.reshape(-1, 1, 1))

    image = node.input[0]
    centred = make("Sub", [image, mean(image, "mean")], "centred")
    variance = mean(make("Mul", [centred, centred], "squared"), "variance")
    epsilon = work.store(
        f"{node.output[0]}_epsilon", np.array(norm.epsilon, dtype=norm.scale.dtype)
    )
    deviation = make("Sqrt", [make("Add", [variance, epsilon], "raised")], "deviation")
    factor = make("Div", [column(norm.scale, "scale"), deviation], "factor")
    shifted = bool(norm.shift.any())
    scaled = make("Mul", [centred, factor], "scaled", None if shifted else node.output[0])
    if shifted:
        make("Add", [scaled, column(norm.shift, "shift")], "shifted", node.output[0])
    return nodes


def _undone(work: Draft, last: onnx.NodeProto) -> tuple[onnx.NodeProto, Norm, Norm] | None:
    """(1x1 convolution, norm 2, norm 1) of `cancel_norms`, found backwards from norm 3."""
    if _norm(work, last) is None:
        return None
    depthwise = _before(work, last, "Conv")
    weight = work.arrays.get(depthwise.input[1]) if depthwise is not None else None
    if depthwise is None or weight is None or setting(depthwise, "group", 1) == 1:
        return None
    if weight.shape[1] != 1:
        return None
    node = depthwise
    while (above := _before(work, node, *HOMOGENEOUS)) is not None:
        if above.op_type == "Pad" and not _passes_factors(work, above):
            return None
        node = above
    norm = _norm(work, _before(work, node, "InstanceNormalization"))
    if norm is None or norm.shift.any():
        return None
    made = _before(work, norm.node, "Conv")
    if made is None or not _mixes_channels_only(work, made):
        return None
    first = _norm(work, work.makers.get(made.input[0]))
    return None if first is None else (made, norm, first)


def _before(work: Draft, node: onnx.NodeProto, *operators: str) -> onnx.NodeProto | None:
    """The node that makes this one's first input for it alone, if it is one of these."""
    maker = work.makers.get(node.input[0])
    ours = maker is not None and maker.op_type in operators and work.alone(node.input[0])
    return maker if ours else None


def _passes_factors(work: Draft, pad: onnx.NodeProto) -> bool:
    """Whether a Pad fills with values of the image, or with zeros, and leaves channels alone."""
    border = border_of(work, pad)
    if border is None or border[0] != (0, 0) or border[1] != (0, 0):
        return False
    if pad_mode(pad) != "constant" or not given(pad, 2):
        return True
    filling = work.arrays.get(given(pad, 2))
    return filling is not None and not filling.any()


def _mixes_channels_only(work: Draft, node: onnx.NodeProto) -> bool:
    """Whether the means of a convolution's outputs follow from those of its inputs: 1x1, dense."""
    weight = work.arrays.get(node.input[1])
    return (
        weight is not None
        and weight.shape[2:] == (1, 1)
        and setting(node, "group", 1) == 1
        and not any(setting(node, "pads", []))
        and set(setting(node, "strides", [1])) == {1}
        and setting(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _rescaled(work: Draft, made: onnx.NodeProto, norm: Norm, first: Norm) -> onnx.NodeProto:
    """The 1x1 convolution with means of 0, variances of about 1, and the factors of norm 2."""
    weight = work.arrays[made.input[1]].astype(np.float64)
    spread = (weight[:, :, 0, 0] ** 2) @ (first.scale.astype(np.float64) ** 2)
    factor = norm.scale / np.sqrt(spread + norm.epsilon)
    weight *= factor.reshape(-1, 1, 1, 1)
    # norm 1 leaves each channel its shift as the mean
    bias = -weight[:, :, 0, 0] @ first.shift.astype(np.float64)
    names = [
        work.store(f"{made.input[1]}_{what}", array.astype(norm.scale.dtype))
        for what, array in (("cancelled", weight), ("cancelled_bias", bias))
    ]
    rescaled = twin(made)
    rescaled.input[:] = [made.input[0], *names]
    return rescaled
