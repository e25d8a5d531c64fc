"""Single layers of a quantized graph back in float, exactly.

A layer (Conv, ConvTranspose, Gemm, MatMul with stored weights) is in INT8 where its weights come
out of a DequantizeLinear. Put back in float it has the weights and the bias of the float student
and reads what was there before the QuantizeLinear in front of it. Q/DQ pairs that other operators
read too (the sum of a residual block) go when no layer is left that they were there for.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from deploy.rewiring import copied, live, nearest, producers, readers, tensors, with_nodes

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = ("Pad", "Reshape", "Transpose", "DepthToSpace", "SpaceToDepth", "Resize", "Identity")
"""Operators that hand values on; between a DequantizeLinear and its layer they are copied for a
layer that wants the float values."""

FLOAT = "float:"
"""Begins the name of a tensor whose final name is not known yet: its own where that is free."""


def quantized_layers(quantized: onnx.ModelProto) -> list[str]:
    """Names of the layers whose weights are stored in INT8, in graph order."""
    makers = producers(quantized.graph.node)
    return [node.name for node in quantized.graph.node if _in_int8(node, makers)]


def revert(
    quantized: onnx.ModelProto, float_model: onnx.ModelProto, layers: Collection[str]
) -> onnx.ModelProto:
    """The quantized graph with some layers in float again.

    Args:
        quantized: Q/DQ form, before `deploy.qdq.for_backend`; not changed.
        float_model: What it was made from.
        layers: Names of its layers; those in float already stay so. All of them give a graph that
            computes exactly what ``float_model`` does.

    Raises:
        ValueError: A name that is no layer of both graphs; the message has the nearest that is.
    """
    originals = {n.name: n for n in float_model.graph.node if n.op_type in LAYERS}
    integer = quantized_layers(quantized)
    for name in layers:
        if name not in originals:
            raise ValueError(f"there is no layer {name!r}; {nearest(name, originals)}")
    chosen = set(layers).intersection(integer)
    model = copied(quantized)
    dropped = _pairs_without_layers(model, chosen, set(integer))
    bypass = _Bypass(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in chosen and node.op_type in LAYERS:
            source, result = bypass.source(node.input[0]), node.output[0]
            node.CopyFrom(originals[node.name])
            node.input[:] = [source, *(FLOAT + name if name else "" for name in node.input[1:])]
            node.output[:] = [result]
            nodes += bypass.taken()
        nodes.append(node)
    _past(model, nodes, dropped)
    return _named_as_before(model, live(nodes, model), float_model)


def only(
    quantized: onnx.ModelProto, float_model: onnx.ModelProto, layers: Collection[str]
) -> onnx.ModelProto:
    """The quantized graph with everything but some layers in float; see `revert`.

    All its layers give a graph that computes exactly what ``quantized`` does.

    Raises:
        ValueError: A name that is no quantized layer; the message has the nearest that is.
    """
    integer = quantized_layers(quantized)
    for name in layers:
        if name not in integer:
            raise ValueError(f"there is no quantized layer {name!r}; {nearest(name, integer)}")
    return revert(quantized, float_model, set(integer) - set(layers))


def _in_int8(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    if node.op_type not in LAYERS:
        return False
    maker = makers.get(node.input[1])
    # weights are stored in INT8; what another operator computed comes from a QuantizeLinear
    return (
        maker is not None and maker.op_type == "DequantizeLinear" and (maker.input[0] not in makers)
    )


class _Bypass:
    """Finds, for a layer's input, the same tensor without any Q/DQ on its way."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers = producers(model.graph.node)
        self._known: dict[str, str] = {}
        self._made: list[onnx.NodeProto] = []

    def source(self, name: str) -> str:
        """The tensor to read instead of ``name``; ``name`` where nothing quantized it."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def taken(self) -> list[onnx.NodeProto]:
        """Copies made since the last call, in an order that runs."""
        made, self._made = self._made, []
        return made

    def _find(self, name: str) -> str:
        maker = self._makers.get(name)
        if maker is None:
            return name
        if maker.op_type == "DequantizeLinear":
            before = self._makers.get(maker.input[0])
            if before is None or before.op_type != "QuantizeLinear":
                raise ValueError(
                    f"{maker.name or name!r} reads no QuantizeLinear; layers can only be put back "
                    "in float before the graph is placed for a backend"
                )
            return self.source(before.input[0])
        if maker.op_type not in MOVES:
            return name
        source = self.source(maker.input[0])
        if source == maker.input[0]:
            return name
        copy = onnx.NodeProto()
        copy.CopyFrom(maker)
        copy.input[0] = source
        copy.output[0] = FLOAT + name
        self._made.append(copy)
        return str(copy.output[0])


def _pairs_without_layers(
    model: onnx.ModelProto, chosen: set[str], integer: set[str]
) -> dict[str, str]:
    """Activation pairs that no INT8 layer is left for: output of the DQ -> input of the Q."""
    nodes = model.graph.node
    makers, takers = producers(nodes), readers(nodes)
    stored = {tensor.name for tensor in model.graph.initializer}
    dropped = {}
    for node in nodes:
        if node.op_type != "DequantizeLinear":
            continue
        before = makers.get(node.input[0])
        if before is None or before.op_type != "QuantizeLinear":
            continue
        owners = _fed(node.output[0], takers) | _made_by(before.input[0], makers, stored, 1)
        owners = owners & integer or _made_by(before.input[0], makers, stored, 2) & integer
        if (owners or integer) <= chosen:
            dropped[node.output[0]] = before.input[0]
    return dropped


def _fed(name: str, takers: dict[str, list[onnx.NodeProto]]) -> set[str]:
    """Layers that read a tensor, directly or handed on."""
    found: set[str] = set()
    for node in takers.get(name, ()):
        if node.op_type in LAYERS:
            found.add(node.name)
        elif node.op_type in (*MOVES, "QuantizeLinear", "DequantizeLinear"):
            found |= _fed(node.output[0], takers)
    return found


def _made_by(name: str, makers: dict[str, onnx.NodeProto], stored: set[str], most: int) -> set[str]:
    """Layers that a tensor comes from, through operators with at most ``most`` inputs that flow."""
    node = makers.get(name)
    if node is None:
        return set()
    if node.op_type in LAYERS:
        return {node.name}
    flowing = [i for i in node.input if i and i not in stored]
    if len(flowing) > most:
        return set()
    return set().union(*(_made_by(i, makers, stored, most) for i in flowing))


def _past(model: onnx.ModelProto, nodes: list[onnx.NodeProto], dropped: dict[str, str]) -> None:
    """Let everybody read past some Q/DQ pairs, in place."""

    def past(name: str) -> str:
        while name in dropped:
            name = dropped[name]
        return name

    for node in nodes:
        node.input[:] = [past(name) for name in node.input]
    makers = producers(nodes)
    for output in model.graph.output:
        source = past(output.name)
        if source == output.name:
            continue
        # the graph's output keeps its name: the operator before the pair now makes it
        makers[output.name].output[0] = f"{output.name}_unread"
        maker = makers[source]
        maker.output[:] = [output.name if name == source else name for name in maker.output]
        for node in nodes:
            node.input[:] = [output.name if name == source else name for name in node.input]


def _named_as_before(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], float_model: onnx.ModelProto
) -> onnx.ModelProto:
    """Names for what begins with `FLOAT`, and its stored tensors; ``nodes`` are all alive."""
    present, originals = tensors(model), tensors(float_model)
    used = {name for node in nodes for name in (*node.input, *node.output)}
    names = {}
    for name in sorted(name for name in used if name.startswith(FLOAT)):
        plain = name.removeprefix(FLOAT)
        same = plain in present and plain in originals and _equal(present[plain], originals[plain])
        names[name] = plain
        while names[name] in used and not (same and names[name] == plain):
            names[name] += "_float"
        used.add(names[name])
        if plain in originals and not same:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(originals[plain])
            tensor.name = names[name]
            if names[name] in present:  # the corrected bias, which nobody reads any more
                present[names[name]].CopyFrom(tensor)
            else:
                model.graph.initializer.append(tensor)
    titles = {node.name for node in nodes if not node.output[0].startswith(FLOAT)}
    for node in nodes:
        while node.output[0].startswith(FLOAT) and node.name in titles:
            node.name += "_float"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return with_nodes(model, nodes)


def _equal(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    return np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
