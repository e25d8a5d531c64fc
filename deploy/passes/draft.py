"""What every pass needs: a copy to work on, who makes and who reads each value, and fresh names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deploy.rewiring import copied, producers, reads, with_nodes

Array = NDArray[Any]
OLDEST_IR = 4
"""IR version since which a stored tensor need not be an input as well."""


@dataclass(frozen=True)
class Draft:
    """A copy of a model, and what a rewrite asks of it.

    Attributes:
        model: The copy, without inferred types (a rewrite would leave them stale, and ONNX Runtime
            then refuses), with every constant as a stored tensor.
        arrays: Stored tensors by name.
        makers: The node that makes a value.
        uses: How often a value is read: by nodes, in subgraphs and as the graph's output.
        captured: Values that subgraphs read.
        taken: Every name in the graph.
    """

    model: onnx.ModelProto
    arrays: dict[str, Array]
    makers: dict[str, onnx.NodeProto]
    uses: Counter[str]
    captured: frozenset[str]
    taken: set[str]

    @property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {value.name for value in self.model.graph.output}

    def alone(self, name: str) -> bool:
        """Whether one node reads the value and nobody else does."""
        return self.uses[name] == 1 and name not in self.outputs and name not in self.captured

    def fresh(self, wish: str) -> str:
        """A name that is not in the graph yet; the same for the same graph."""
        name, count = wish, 2
        while name in self.taken:
            name, count = f"{wish}_{count}", count + 1
        self.taken.add(name)
        return name

    def store(self, wish: str, array: Array) -> str:
        """Keep an array in the graph, and return its name."""
        name = self.fresh(wish)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        self.arrays[name] = array
        return name

    def finish(self, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
        """The model with these nodes, without those and the tensors that nobody reads."""
        return with_nodes(self.model, nodes)


def draft(model: onnx.ModelProto) -> Draft:
    """A copy of a model to rewrite; the model itself is not changed."""
    copy = copied(model)
    graph = copy.graph
    _store_constants(graph)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if any(value.name in arrays for value in graph.input):
        images = [value for value in graph.input if value.name not in arrays]
        inputs = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in images]
        del graph.input[:]
        graph.input.extend(inputs)
        copy.ir_version = max(copy.ir_version, OLDEST_IR)
    uses = Counter(name for node in graph.node for name in reads(node))
    uses.update(value.name for value in graph.output)
    captured = {name for node in graph.node for name in reads(node)[len(node.input) :]}
    taken = {*arrays, *uses, *(value.name for value in graph.input)}
    taken.update(name for node in graph.node for name in (node.name, *node.output))
    return Draft(copy, arrays, producers(graph.node), uses, frozenset(captured), taken)


def branches(node: onnx.NodeProto) -> bool:
    """Whether a node holds subgraphs (If, Loop, Scan)."""
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attribute)


def setting(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, text as str."""
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def put(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set a node's attribute."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    kept.append(helper.make_attribute(name, value))
    kept = [onnx.AttributeProto.FromString(attribute.SerializeToString()) for attribute in kept]
    del node.attribute[:]
    node.attribute.extend(kept)


def twin(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def given(node: onnx.NodeProto, index: int) -> str:
    """Name of a node's input, empty where it is left out."""
    return str(node.input[index]) if len(node.input) > index else ""


def _store_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into stored tensors of the same names."""
    others: list[onnx.NodeProto] = []
    for node in graph.node:
        array = _constant(node) if node.op_type == "Constant" else None
        if array is None:
            others.append(twin(node))
        else:
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del graph.node[:]
    graph.node.extend(others)


def _constant(node: onnx.NodeProto) -> Array | None:
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return numpy_helper.to_array(value)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(value, dtype=np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(value, dtype=np.int64)
    return None


def spread(border: Array, axes: Iterable[int] | None, rank: int) -> list[tuple[int, int]]:
    """A Pad's border as (before, after) for each axis of an image."""
    flat = [int(value) for value in border.reshape(-1)]
    half = len(flat) // 2
    named = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    before_after = dict(zip(named, zip(flat[:half], flat[half:], strict=True), strict=True))
    return [before_after.get(axis, (0, 0)) for axis in range(rank)]


def border_of(work: Draft, pad: onnx.NodeProto) -> list[tuple[int, int]] | None:
    """A Pad's border for each axis of (N, C, H, W), or None where it is computed or no image's."""
    border, axes = work.arrays.get(given(pad, 1)), None
    if given(pad, 3):
        axes = work.arrays.get(given(pad, 3))
        if axes is None:
            return None
    if border is None or (axes is None and border.size != 8):
        return None
    return spread(border, None if axes is None else axes.reshape(-1).tolist(), 4)
