"""What may be inside a student's ONNX file, and the whole-graph rewrites every backend shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference, version_converter

STANDARD_DOMAINS = ("", "ai.onnx")
OLDEST_OPSET = 11
HIDDEN = "pocketgan.hidden"
UNCHANGED = frozenset(
    {
        *("Pad", "Add", "Sub", "Mul", "Div", "Identity"),
        *("Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh"),
    }
)
"""Operators that later opsets only gave more types: on float images they mean the same since 11."""
AGAIN = "make the export again with pocketgan compress"


def load_checked(path: Path) -> onnx.ModelProto:
    """Read a student and check that it is one: RGB in, RGB out, whole, standard operators only.

    Nothing outside ``path`` is opened: external data is refused before it could be followed.

    Raises:
        ValueError: Not an ONNX model, or not one that deploy accepts; the message names the file.
    """
    data = path.read_bytes()
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf has a class for it, but no types
        raise ValueError(f"{path} is not an ONNX model ({len(data)} bytes); {AGAIN}") from error
    if not model.ir_version or not model.graph.node:
        raise ValueError(f"{path} is not an ONNX model ({len(data)} bytes); {AGAIN}")
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ValueError(
                f"{path} keeps {tensor.name!r} in another file; export with external_data=False"
            )
    foreign = {entry.domain for entry in model.opset_import} | {
        node.domain for node in _nodes(model.graph)
    }
    foreign.difference_update(STANDARD_DOMAINS)
    if foreign or model.functions:
        names = ", ".join(sorted(foreign)) or model.functions[0].name
        raise ValueError(
            f"{path} uses operators that are not standard ONNX ({names}); "
            "replace them in the model before the export"
        )
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is not valid ONNX: {reason}; {AGAIN}") from error
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    for kind, values in (("input", inputs), ("output", list(model.graph.output))):
        if len(values) != 1:
            raise ValueError(f"{path} has {len(values)} {kind}s; a generator has one; {AGAIN}")
        _check_images(path, kind, values[0])
    return model


def input_name(model: onnx.ModelProto) -> str:
    """Name of the one input that is not a stored weight."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return next(str(value.name) for value in model.graph.input if value.name not in stored)


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs, subgraphs included."""
    return Counter(node.op_type for node in _nodes(model.graph))


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operator set the model is written in."""
    imports = model.opset_import
    return max(int(entry.version) for entry in imports if entry.domain in STANDARD_DOMAINS)


def at_opset(model: onnx.ModelProto, newest: int) -> onnx.ModelProto:
    """The model in an operator set no newer than ``newest``; the same model where it is already.

    Raises:
        ValueError: An operator means something in the model that ``newest`` cannot say.
    """
    current = opset(model)
    if current <= newest:
        return model
    older = onnx.ModelProto()
    older.CopyFrom(model)
    try:
        if newest < OLDEST_OPSET:
            raise ValueError(f"opset {OLDEST_OPSET} is the oldest that pads by a computed border")
        pads = [node for node in older.graph.node if node.op_type == "Pad"]
        _spell_out_axes(older, pads)
        # onnx has no adapters for these (Pad reads the same once it has no axes), so they are
        # hidden from the converter in a domain of their own
        for node in older.graph.node:
            if node.op_type in UNCHANGED:
                node.domain = HIDDEN
        older.opset_import.append(helper.make_opsetid(HIDDEN, 1))
        older = version_converter.convert_version(older, newest)
        for node in older.graph.node:
            if node.domain == HIDDEN:
                node.ClearField("domain")
        standard = [entry for entry in older.opset_import if entry.domain != HIDDEN]
        del older.opset_import[:]
        older.opset_import.extend(standard)
        older.ir_version = helper.find_min_ir_version_for(standard)
        checker.check_model(older, full_check=True)
    except (RuntimeError, ValueError, checker.ValidationError, shape_inference.InferenceError) as e:
        reason = str(e).strip().splitlines()[-1]
        raise ValueError(
            f"the student is ONNX opset {current} and cannot be written in opset {newest}: "
            f"{reason}; use a profile with a newer runtime, or another student family"
        ) from e
    return older


def memory_mib(model: onnx.ModelProto, image_size: int) -> float:
    """The least memory one image takes: weights, and the activations alive at the worst moment.

    A lower bound from the graph alone; a runtime adds its own workspace.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for value in sized.graph.input:
        if value.name == input_name(model):
            for dim, extent in zip(
                value.type.tensor_type.shape.dim, (1, 3, image_size, image_size), strict=True
            ):
                dim.dim_value = extent
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    sized = shape_inference.infer_shapes(sized, data_prop=True)
    graph = sized.graph
    sizes = {
        value.name: _bytes(value) for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = sum(
        len(tensor.raw_data) or 4 * math.prod(tensor.dims) for tensor in graph.initializer
    )
    last_use = {name: at for at, node in enumerate(graph.node) for name in node.input}
    alive = {input_name(model)}
    peak = 0
    for at, node in enumerate(graph.node):
        alive.update(node.output)
        peak = max(peak, sum(sizes.get(name, 0) for name in alive))
        alive = {name for name in alive if last_use.get(name, len(graph.node)) > at}
    return float(weights + peak) / 2**20


def _spell_out_axes(model: onnx.ModelProto, pads: list[onnx.NodeProto]) -> None:
    """Remove Pad's optional ``axes``, which ONNX has had since opset 18 only."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in pads:
        if len(node.input) < 4 or not node.input[3]:
            continue
        border, axes = arrays.get(node.input[1]), arrays.get(node.input[3])
        if border is None or axes is None:
            raise ValueError(f"Pad {node.name!r} computes its axes while it runs")
        full = np.zeros((2, 4), dtype=np.int64)  # images are (N, C, H, W) throughout
        full[:, axes] = border.reshape(2, -1)
        name = f"{node.output[0]}_border"
        model.graph.initializer.append(numpy_helper.from_array(full.reshape(-1), name))
        value = [node.input[2]] if node.input[2] else []
        node.input[:] = [node.input[0], name, *value]


def _check_images(path: Path, kind: str, value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    dims = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    shown = f"({', '.join(str(dim) for dim in dims)})"
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4 or dims[1] != 3:
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ValueError(
            f"{path}: {kind} {value.name!r} is {dtype} {shown}, not float (N, 3, H, W); {AGAIN}"
        )
    if kind == "input" and any(isinstance(dim, int) for dim in dims[2:]):
        raise ValueError(
            f"{path}: {kind} {value.name!r} is {shown}; height and width must be dynamic, "
            f"so that images of every size can be translated; {AGAIN}"
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, with those of the subgraphs of If, Loop and Scan."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor: initializers and constants, those of subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _bytes(value: onnx.ValueInfoProto) -> int:
    tensor = value.type.tensor_type
    width = 1 if tensor.elem_type in (TensorProto.INT8, TensorProto.UINT8) else 4
    return width * math.prod(int(dim.dim_value) or 1 for dim in tensor.shape.dim)
