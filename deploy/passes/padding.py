"""Pads that disappear into a convolution, and pads made of slices."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from deploy.passes.draft import Draft, border_of, draft, given, put, setting, twin

LAST = 2**63 - 1
"""The end of a slice that runs to the end of its axis."""
SPATIAL = (2, 3)
BORROWED = ("reflect", "edge")
"""Modes that fill the border with values of the image."""


def pad_mode(pad: onnx.NodeProto) -> str:
    """What a Pad fills its border with."""
    return str(setting(pad, "mode", "constant"))


def merge_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Zero borders as the own padding of the layer that reads them.

    A convolution and an AveragePool that counts its padding add the border to their own; a
    ConvTranspose crops that much less. Where this would not be exact (another value than zero, a
    border of channels, a crop that is smaller than the border) the Pad stays.
    """
    work = draft(model)
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        pad = work.makers.get(given(node, 0))
        merged = None
        if pad is not None and pad.op_type == "Pad":
            border = _zeros(work, pad)
            if border is not None and node.op_type in MERGED:
                merged = _merged(node, pad, border)
        nodes.append(merged or node)
    return work.finish(nodes)


def slice_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Reflecting and repeating Pads as slices of one row or column, put together again.

    Exact. The slices step forward only, because many compilers know no other.
    """
    return _sliced(model, BORROWED)


def slice_reflect(model: onnx.ModelProto) -> onnx.ModelProto:
    """`slice_pads` for ``Pad(reflect)`` alone."""
    return _sliced(model, ("reflect",))


def slice_edge(model: onnx.ModelProto) -> onnx.ModelProto:
    """`slice_pads` for ``Pad(edge)`` alone."""
    return _sliced(model, ("edge",))


def without_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Pad that can be replaced, whatever it fills its border with."""
    return merge_pads(slice_pads(model))


def _zeros(work: Draft, pad: onnx.NodeProto) -> list[tuple[int, int]] | None:
    """The border of a Pad that only adds zeros around the image, else None."""
    border = border_of(work, pad)
    if border is None or pad_mode(pad) != "constant":
        return None
    if given(pad, 2):
        filling = work.arrays.get(given(pad, 2))
        if filling is None or filling.any():
            return None
    if any(border[axis] != (0, 0) for axis in (0, 1)) or min(map(min, border)) < 0:
        return None
    return border


MERGED = ("Conv", "ConvTranspose", "AveragePool")


def _merged(
    node: onnx.NodeProto, pad: onnx.NodeProto, border: list[tuple[int, int]]
) -> onnx.NodeProto | None:
    """The layer with the border as its own padding, or None where that is not the same."""
    if setting(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    own = list(setting(node, "pads", [0, 0, 0, 0]))
    extra = [border[axis][end] for end in (0, 1) for axis in SPATIAL]
    pads = [a + b for a, b in zip(own, extra, strict=True)]
    merged = twin(node)
    if node.op_type == "ConvTranspose":
        if len(setting(node, "output_shape", [])):
            return None
        strides = 2 * list(setting(node, "strides", [1, 1]))
        # a row of zeros in front moves the output by one stride, which the crop takes off
        pads = [a - s * b for a, b, s in zip(own, extra, strides, strict=True)]
        if min(pads) < 0:
            return None
    elif node.op_type == "AveragePool":
        counted = setting(node, "count_include_pad", 0)
        if setting(node, "ceil_mode", 0) or (any(own) and not counted):
            return None
        kernel = 2 * list(setting(node, "kernel_shape", []))
        if any(size >= limit for size, limit in zip(pads, kernel, strict=True)):
            return None  # runtimes refuse a window that sees padding only
        put(merged, "count_include_pad", 1)
    put(merged, "auto_pad", "NOTSET")
    put(merged, "pads", pads)
    merged.input[0] = pad.input[0]
    return merged


def _sliced(model: onnx.ModelProto, modes: tuple[str, ...]) -> onnx.ModelProto:
    work = draft(model)
    nodes: list[onnx.NodeProto] = []
    for node in work.model.graph.node:
        border = None
        if node.op_type == "Pad" and pad_mode(node) in modes:
            border = border_of(work, node)
        if border is None or min(map(min, border)) < 0 or border == [(0, 0)] * 4:
            nodes.append(node)
            continue
        nodes += _as_slices(work, node, border)
    return work.finish(nodes)


def _as_slices(
    work: Draft, pad: onnx.NodeProto, border: list[tuple[int, int]]
) -> list[onnx.NodeProto]:
    """One axis after the other: corners are then borders of borders, as in a Pad."""
    nodes: list[onnx.NodeProto] = []
    reflect = pad_mode(pad) == "reflect"
    padded = [axis for axis in range(4) if border[axis] != (0, 0)]
    value = pad.input[0]
    for axis in padded:
        before, after = border[axis]
        # distance from the first and from the last row: 0 is that row itself
        front = range(before, 0, -1) if reflect else [0] * before
        back = range(1, after + 1) if reflect else [0] * after
        rows = [(step, step + 1) for step in front]
        rows_behind = [(-1 - step, -step or LAST) for step in back]
        parts: dict[tuple[int, int], str] = {}
        for start, end in dict.fromkeys(rows + rows_behind):
            name = work.fresh(f"{pad.output[0]}_row{len(nodes)}")
            bounds = [_bound(work, number) for number in (start, end, axis)]
            nodes.append(helper.make_node("Slice", [value, *bounds], [name], name=name))
            parts[start, end] = name
        last = axis == padded[-1]
        output = pad.output[0] if last else work.fresh(f"{pad.output[0]}_axis{axis}")
        joined = [*(parts[row] for row in rows), value, *(parts[row] for row in rows_behind)]
        title = pad.name if last else output
        nodes.append(helper.make_node("Concat", joined, [output], name=title, axis=axis))
        value = output
    return nodes


def _bound(work: Draft, number: int) -> str:
    """A stored number of a slice, one for all slices of the graph."""
    name = f"slice_{'end' if number == LAST else number}".replace("-", "minus_")
    stored = work.arrays.get(name)
    if stored is not None and stored.dtype == np.int64 and stored.tolist() == [number]:
        return name
    return work.store(name, np.array([number], dtype=np.int64))
