"""Which operators can be run on tiles, and what each does to rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import onnx

from deploy.graph import opset
from deploy.passes.draft import Array, Draft, border_of, given, setting
from deploy.tiling.steps import STAY, Line, Nearest, Sampling, Sliding, Spreading, Step

Lines = tuple[Line, Line]
Steps = tuple[Step, Step]

NORM = "InstanceNormalization"

EACH_POSITION = frozenset(
    {
        *("Abs", "Add", "And", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip"),
        *("DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu"),
        *("Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LRN"),
        *("LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg"),
        *("Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu"),
        *("Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh"),
        *("ThresholdedRelu", "Where"),
    }
)
"""Operators whose output at a position reads their inputs at that position only."""

BROADCASTING = frozenset(
    {
        *("Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"),
    }
)

WHOLE_IMAGE = frozenset(
    {
        *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GroupNormalization"),
        *("LayerNormalization", "LogSoftmax", "MeanVarianceNormalization", "ReduceL1"),
        *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax"),
    }
)
"""Operators that look at the whole image, unless their axes say otherwise."""


class BlockedError(ValueError):
    """An operator cannot be run on tiles; the message ends a sentence that begins with it."""


def steps_of(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    """What a node does to rows and to columns.

    Args:
        work: The model.
        node: One that reads a map of the image.
        lines: Of that map.

    Raises:
        BlockedError: It cannot be run on tiles.
    """
    if node.op_type in BROADCASTING:
        _refuse_stored_maps(work, node)
    if node.op_type in EACH_POSITION or node.op_type == NORM:
        return STAY, STAY
    if node.op_type in WHOLE_IMAGE:
        if _axes(work, node) == [1]:
            return STAY, STAY
        raise BlockedError("looks at the whole image")
    rule = RULES.get(node.op_type)
    if rule is None:
        raise BlockedError("is not an operator whose receptive field is known")
    return rule(work, node, lines)


def _conv(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    reach, stride = _reach(work, node), _pair(node, "strides")
    before, after = _pads(node, reach, stride, lines)
    rows, columns = (Sliding(*of) for of in zip(reach, stride, before, after, strict=True))
    return rows, columns


def _pool(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    steps = _conv(work, node, lines)
    if len(list(filter(None, node.output))) > 1:
        raise BlockedError("tells positions in the whole image (its second output)")
    for step, line in zip(steps, lines, strict=True):
        assert isinstance(step, Sliding)
        over = (line.extra + step.before + step.after - step.reach) % step.stride
        if setting(node, "ceil_mode", 0) and over:
            raise BlockedError("rounds its size up (ceil_mode)")
    return steps


def _conv_transpose(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    if setting(node, "output_shape", None) or setting(node, "auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        raise BlockedError("computes its padding from a size (output_shape or auto_pad)")
    reach, stride = _reach(work, node), _pair(node, "strides")
    pads = [int(value) for value in setting(node, "pads", [0, 0, 0, 0])]
    longer = [int(value) for value in setting(node, "output_padding", [0, 0])]
    rows, columns = (
        Spreading(reach[at], stride[at], pads[at], pads[at + 2] - longer[at]) for at in (0, 1)
    )
    return rows, columns


def _pad(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    border = border_of(work, node)
    if border is None:
        raise BlockedError("computes its border")
    if setting(node, "mode", "constant") == "wrap":
        raise BlockedError("continues the image with its other end (mode wrap)")
    if border[0] != (0, 0) or border[1] != (0, 0):
        raise BlockedError("pads images or channels")
    rows, columns = (Sliding(before=before, after=after) for before, after in border[2:])
    return rows, columns


def _resize(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    upsample = node.op_type == "Upsample"
    scales = work.arrays.get(given(node, 1 if upsample else 2))
    if scales is None or scales.size != 4 or given(node, 3):
        raise BlockedError("resizes to a computed size")
    if list(scales[:2]) != [1, 1]:
        raise BlockedError("resizes images or channels")
    mode = setting(node, "mode", "nearest")
    how = (
        "asymmetric" if upsample else setting(node, "coordinate_transformation_mode", "half_pixel")
    )
    if how not in ("half_pixel", "pytorch_half_pixel", "asymmetric") or mode not in REACHES:
        raise BlockedError(f"resizes by {mode} with {how} coordinates")
    if setting(node, "antialias", 0) or setting(node, "exclude_outside", 0):
        raise BlockedError("resizes with antialias or exclude_outside")
    nearest: Nearest = setting(node, "nearest_mode", "round_prefer_floor")
    nearest = "floor" if upsample else nearest
    steps: list[Step] = []
    for scale, line in zip(scales[2:], lines, strict=True):
        factor = Fraction(float(scale)).limit_denominator(64)
        whole = 1 in (factor.numerator, factor.denominator)
        if not whole or float(factor) != float(scale) or line.extra * factor % 1:
            raise BlockedError(f"resizes by {float(scale):g}, which is no whole factor")
        steps.append(Sampling(factor, how != "asymmetric", REACHES[mode], nearest))
    return steps[0], steps[1]


def _depth_to_space(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    block = int(setting(node, "blocksize", 1))
    return Spreading(block, block), Spreading(block, block)


def _space_to_depth(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    block = int(setting(node, "blocksize", 1))
    return Sliding(block, block), Sliding(block, block)


def _slice(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    values = [work.arrays.get(given(node, at)) for at in range(1, len(node.input))]
    if len(values) < 2 or any(one is None for one in values):
        raise BlockedError("slices at computed positions")
    numbers = [[int(value) for value in one.reshape(-1)] for one in values if one is not None]
    starts, ends = numbers[:2]
    axes = numbers[2] if len(numbers) > 2 else list(range(len(starts)))
    strides = numbers[3] if len(numbers) > 3 else [1] * len(starts)
    steps: list[Step] = [STAY, STAY]
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        if axis % 4 < 2:
            continue
        if stride != 1 or start < 0 or 0 <= end < 2**31 - 1:
            raise BlockedError(
                "slices rows or columns at positions that depend on the image's size"
            )
        steps[axis % 4 - 2] = Sliding(before=-start, after=min(end, 0) if end < 0 else 0)
    return steps[0], steps[1]


def _channels_only(work: Draft, node: onnx.NodeProto, lines: Lines) -> Steps:
    if setting(node, "axis", 0) not in (1, -3):
        raise BlockedError("does not act along channels")
    return STAY, STAY


RULES: dict[str, Callable[[Draft, onnx.NodeProto, Lines], Steps]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Slice": _slice,
    "Concat": _channels_only,
    "Split": _channels_only,
}

REACHES = {"nearest": 0, "linear": 1, "cubic": 2}


def _reach(work: Draft, node: onnx.NodeProto) -> tuple[int, int]:
    """Positions from the first to the last tap of a kernel, for rows and columns."""
    kernel = setting(node, "kernel_shape", None)
    if kernel is None:
        weight = work.arrays.get(given(node, 1))
        if weight is None:
            raise BlockedError("does not say how large its kernel is")
        kernel = weight.shape[2:]
    if len(kernel) != 2:
        raise BlockedError(f"has a kernel of {len(kernel)} axes")
    height, width = (
        (int(size) - 1) * dilation + 1
        for size, dilation in zip(kernel, _pair(node, "dilations"), strict=True)
    )
    return height, width


def _pair(node: onnx.NodeProto, name: str) -> tuple[int, int]:
    first, second = setting(node, name, [1, 1])
    return int(first), int(second)


def _pads(
    node: onnx.NodeProto, reach: tuple[int, int], stride: tuple[int, int], lines: Lines
) -> tuple[list[int], list[int]]:
    auto = setting(node, "auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = [int(value) for value in setting(node, "pads", [0, 0, 0, 0])]
        return pads[:2], pads[2:]
    before, after = [], []
    for far, by, line in zip(reach, stride, lines, strict=True):
        # aligned lengths differ by multiples of the stride, so the padding is the same for all
        total = max(far - (line.extra % by or by), 0)
        less, more = total // 2, total - total // 2
        before.append(less if auto == "SAME_UPPER" else more)
        after.append(more if auto == "SAME_UPPER" else less)
    return before, after


def _axes(work: Draft, node: onnx.NodeProto) -> list[int] | None:
    """Axes of a Reduce or Softmax, counted from 0; None where they are all, or computed."""
    if node.op_type.endswith("Softmax"):
        older = opset(work.model) < 13  # then all axes behind it count too
        return None if older else [int(setting(node, "axis", -1)) % 4]
    if not node.op_type.startswith("Reduce") or not setting(node, "keepdims", 1):
        return None
    stored: Array | None = work.arrays.get(given(node, 1))
    axes: Any = setting(node, "axes", None) if stored is None else stored.reshape(-1)
    return None if axes is None else sorted(int(axis) % 4 for axis in axes)


def _refuse_stored_maps(work: Draft, node: onnx.NodeProto) -> None:
    for name in node.input:
        stored = work.arrays.get(name)
        if stored is not None and any(extent != 1 for extent in stored.shape[-2:]):
            raise BlockedError(f"adds a stored map of one size ({name})")
