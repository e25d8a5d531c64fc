"""ConvTranspose as a convolution and DepthToSpace, or without padding of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from deploy.passes.draft import Array, Draft, draft, given, put, setting, twin
from deploy.passes.padding import LAST

ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "Tanh"})


@dataclass(frozen=True)
class Axis:
    """One axis of a ConvTranspose: out[s * i + k - before] += in[i] * weight[k].

    Attributes:
        kernel: Weights along the axis.
        stride: s.
        before: Rows cropped in front.
        after: Rows cropped behind, less those added by output_padding; may be negative.
    """

    kernel: int
    stride: int
    before: int
    after: int

    @property
    def growth(self) -> int:
        """Rows of the output beyond stride x rows of the input."""
        return self.kernel - self.stride - self.before - self.after

    @property
    def steps(self) -> int:
        """Rows of the convolution beyond rows of the input, enough for all of the output."""
        return -(-self.growth // self.stride)

    @property
    def surplus(self) -> int:
        """Rows too many behind, once the convolution's rows are spread out."""
        return self.steps * self.stride - self.growth

    @property
    def taps(self) -> list[tuple[int, int]]:
        """For each weight, the output row within a stride and the input row, relative to its own.

        Output row s * j + r reads in[j + t] * weight[k] where s * (j + t) + k - before is that row.
        """
        phases = [(k - self.before) % self.stride for k in range(self.kernel)]
        return [(phase, (phase + self.before - k) // self.stride) for k, phase in enumerate(phases)]

    @property
    def reach(self) -> tuple[int, int]:
        """First and last input row that the convolution reads, relative to its own."""
        rows = [row for _, row in self.taps]
        # padding can be none, but not negative: then the convolution reads rows of weight 0
        return min(0, *rows), max(-self.steps, *rows)

    @property
    def pads(self) -> tuple[int, int]:
        """Padding of the convolution."""
        low, high = self.reach
        return -low, self.steps + high


def sub_pixel(model: onnx.ModelProto) -> onnx.ModelProto:
    """ConvTranspose as Conv to stride x stride times the channels and DepthToSpace; exact.

    Each output row within a stride has kernel taps of its own, which lie in one convolution beside
    each other; where they do not line up, weights of 0 fill the gap: with stride 2 the convolution
    does 1.8 times the work of a kernel of 3, 2.25 times that of 4 and the same as that of 2.
    An activation behind it goes before DepthToSpace, where runtimes fuse it into the convolution.
    A ConvTranspose with groups, dilation, a stride that differs between the axes or computed
    weights stays as it is.
    """
    work = draft(model)
    nodes: list[onnx.NodeProto] = []
    spreads: dict[str, onnx.NodeProto] = {}  # value -> the DepthToSpace that makes it
    for node in work.model.graph.node:
        axes = _axes(work, node)
        spread = spreads.get(given(node, 0))
        if spread is not None and _is_activation(work, node) and work.alone(node.input[0]):
            nodes.remove(spread)
            nodes += _before_spread(work, node, spread)
            spreads[node.output[0]] = spread
        elif axes is not None and _has_sub_pixels(node, axes):
            nodes += _sub_pixel(work, node, axes)
            if nodes[-1].op_type == "DepthToSpace":
                spreads[node.output[0]] = nodes[-1]
        else:
            nodes.append(node)
    return work.finish(nodes)


def cropped(model: onnx.ModelProto) -> onnx.ModelProto:
    """ConvTranspose without padding of its own, its border taken off by Slice; exact.

    A deep-learning accelerator takes no other. Where output_padding adds rows that no input
    reaches, it stays as it is.
    """
    work = draft(model)
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        axes = _axes(work, node)
        if axes is None or any(axis.after < 0 for axis in axes) or not is_padded(node):
            nodes.append(node)
            continue
        bare = twin(node)
        put(bare, "pads", [0, 0, 0, 0])
        put(bare, "output_padding", [0, 0])
        put(bare, "auto_pad", "NOTSET")
        bare.output[0] = work.fresh(f"{node.output[0]}_full")
        nodes.append(bare)
        starts = [axis.before for axis in axes]
        ends = [-axis.after or LAST for axis in axes]
        nodes.append(_crop(work, bare.output[0], node.output[0], starts, ends))
    return work.finish(nodes)


def is_padded(node: onnx.NodeProto) -> bool:
    """Whether a ConvTranspose crops its output or adds to it."""
    return any(setting(node, "pads", [])) or any(setting(node, "output_padding", []))


def _axes(work: Draft, node: onnx.NodeProto) -> list[Axis] | None:
    """Height and width of a ConvTranspose with stored weights; None for anything else."""
    if node.op_type != "ConvTranspose":
        return None
    weight = work.arrays.get(node.input[1])
    if weight is None or weight.ndim != 4 or (given(node, 2) and node.input[2] not in work.arrays):
        return None
    if setting(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    if len(setting(node, "output_shape", [])) or set(setting(node, "dilations", [1])) != {1}:
        return None
    strides = setting(node, "strides", [1, 1])
    pads = setting(node, "pads", [0, 0, 0, 0])
    extra = setting(node, "output_padding", [0, 0])
    return [
        Axis(int(weight.shape[2 + at]), strides[at], pads[at], pads[2 + at] - extra[at])
        for at in (0, 1)
    ]


def _has_sub_pixels(node: onnx.NodeProto, axes: list[Axis]) -> bool:
    return setting(node, "group", 1) == 1 and axes[0].stride == axes[1].stride


def _is_activation(work: Draft, node: onnx.NodeProto) -> bool:
    """Whether a node does the same to every value, wherever it is."""
    bounds = [name for name in node.input[1:] if name]
    return node.op_type in ACTIVATIONS and all(
        name in work.arrays and work.arrays[name].size == 1 for name in bounds
    )


def _before_spread(
    work: Draft, node: onnx.NodeProto, spread: onnx.NodeProto
) -> list[onnx.NodeProto]:
    """An activation and the DepthToSpace in front of it, the other way round."""
    activation = twin(node)
    activation.input[0] = spread.input[0]
    activation.output[0] = work.fresh(f"{node.output[0]}_wide")
    spread.input[0], spread.output[0] = activation.output[0], node.output[0]
    return [activation, spread]


def _sub_pixel(work: Draft, node: onnx.NodeProto, axes: list[Axis]) -> list[onnx.NodeProto]:
    stride = axes[0].stride
    weight = work.arrays[node.input[1]]
    inputs = [
        node.input[0],
        work.store(f"{node.input[1]}_sub_pixel", _beside_each_other(weight, axes)),
    ]
    if given(node, 2):
        bias = work.arrays[node.input[2]].repeat(stride * stride)
        inputs.append(work.store(f"{node.input[2]}_sub_pixel", bias))
    (top, bottom), (left, right) = (axis.pads for axis in axes)
    wide = work.fresh(f"{node.output[0]}_wide")
    surplus = [axis.surplus for axis in axes]
    spread = work.fresh(f"{node.output[0]}_spread") if any(surplus) else node.output[0]
    nodes = [
        helper.make_node("Conv", inputs, [wide], name=node.name, pads=[top, left, bottom, right]),
        helper.make_node(
            "DepthToSpace",
            [wide],
            [spread],
            name=work.fresh(f"{node.name or node.output[0]}_spread"),
            blocksize=stride,
            mode="CRD",
        ),
    ]
    if any(surplus):
        ends = [-rows or LAST for rows in surplus]
        nodes.append(_crop(work, spread, node.output[0], [0, 0], ends))
    return nodes


def _beside_each_other(weight: Array, axes: list[Axis]) -> Array:
    """(in, out, kh, kw) of a ConvTranspose -> (out * s * s, in, th, tw) of a convolution."""
    inputs, outputs = weight.shape[:2]
    stride = axes[0].stride
    (low_y, high_y), (low_x, high_x) = (axis.reach for axis in axes)
    size = (outputs, stride, stride, inputs, high_y - low_y + 1, high_x - low_x + 1)
    wide = np.zeros(size, dtype=weight.dtype)
    for ky, (row, y) in enumerate(axes[0].taps):
        for kx, (column, x) in enumerate(axes[1].taps):
            wide[:, row, column, :, y - low_y, x - low_x] = weight[:, :, ky, kx].T
    return wide.reshape(outputs * stride * stride, *size[3:])


def _crop(
    work: Draft, source: str, result: str, starts: list[int], ends: list[int]
) -> onnx.NodeProto:
    bounds = [
        work.store(f"{result}_{name}", np.array(numbers, dtype=np.int64))
        for name, numbers in (("starts", starts), ("ends", ends), ("axes", [2, 3]))
    ]
    name = work.fresh(f"{result}_crop")
    return helper.make_node("Slice", [source, *bounds], [result], name=name)
