"""Small tools for rewriting ONNX graphs: copies, stored arrays, makers and readers of tensors."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.generic]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without inferred types, which a rewrite would leave stale (and ORT then refuses)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Stored tensors by name: initializers, and what Constant nodes hold."""
    stored = {str(tensor.name): tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                stored[node.output[0]] = attribute.t
    return stored


def arrays(model: onnx.ModelProto) -> dict[str, Array]:
    """The values of `tensors`."""
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors(model).items()}


def producers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """Which node makes a tensor."""
    return {name: node for node in nodes for name in node.output if name}


def readers(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """Which nodes read a tensor, in graph order; a node that reads it twice is there twice."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            if name:
                found[name].append(node)
    return found


def replace(model: onnx.ModelProto, name: str, array: Array) -> None:
    """Give a stored tensor another value, in place."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def with_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
    """Exchange the nodes of a model, in place, leaving out what nobody reads any more."""
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in live(nodes, model)]
    read = {name for node in kept for name in reads(node)}
    read.update(output.name for output in model.graph.output)
    stored = [tensor for tensor in model.graph.initializer if tensor.name in read]
    stored = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in stored]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(stored)
    return model


def live(nodes: Iterable[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Those that lead to an output of the graph."""
    wanted = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(reads(node))
    return kept[::-1]


def reads(node: onnx.NodeProto) -> list[str]:
    """Values a node reads: its inputs, then whatever its subgraphs name."""
    names = list(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for nested in inner.node:
                names += reads(nested)
            names += [value.name for value in inner.output]
    return names


def nearest(name: str, known: Collection[str]) -> str:
    """``did you mean ...`` for a name that is not known, or which names there are."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(sorted(known)) or 'none'}"
