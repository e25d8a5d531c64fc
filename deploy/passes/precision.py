"""A float32 model in float16 or bfloat16, for runtimes that take precision from the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference, version_converter

from deploy.graph import opset
from deploy.passes.draft import Draft, branches, draft, put, twin
from deploy.rewiring import reads

LARGEST = 65504.0
"""The largest float16."""
SMALLEST_NORMAL = 2.0**-14
"""Below this, a float16 loses digits."""
SCALES_OPSET = 19
"""Opset since which a scale of QuantizeLinear may be other than float32."""
BFLOAT16_OPSET = 22
"""Opset since which a convolution may be bfloat16."""
NORMS = frozenset(
    {
        *("InstanceNormalization", "LayerNormalization", "GroupNormalization"),
        *("MeanVarianceNormalization", "LpNormalization", "RMSNormalization"),
    }
)
REDUCTIONS = frozenset(
    {
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"),
        *("ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "GlobalAveragePool"),
    }
)
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "Reciprocal", "Abs"})
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16, with float32 input and output as before.

    Norms, also decomposed ones, stay in float32 between casts: squares and sums over an image
    leave float16's range. Of an INT8 model, what is not integer becomes float16; its scales too
    where ONNX knows such (opset 19, to which 18 is raised) and float16 holds them without loss of
    digits, else there are casts. Every operator reads one type, as a strongly typed TensorRT
    network demands.

    Raises:
        ValueError: A weight is beyond float16's range, or the model has branches.
    """
    quantized = any(node.op_type in QUANTIZERS for node in model.graph.node)
    if quantized and opset(model) < SCALES_OPSET:
        model = _newer(model, SCALES_OPSET)
    return _converted(model, TensorProto.FLOAT16, "half")


def bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in bfloat16, with float32 input and output as before; norms as in `half`.

    Written in opset 22, the first in which ONNX has convolutions in bfloat16.

    Raises:
        ValueError: The model cannot be written in opset 22, or has branches.
    """
    if opset(model) < BFLOAT16_OPSET:
        model = _newer(model, BFLOAT16_OPSET)
    return _converted(model, TensorProto.BFLOAT16, "bfloat16")


def _newer(model: onnx.ModelProto, newest: int) -> onnx.ModelProto:
    stripped = draft(model).model
    try:
        newer: onnx.ModelProto = version_converter.convert_version(stripped, newest)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"the model is ONNX opset {opset(model)} and cannot be written in opset {newest}: "
            f"{reason}; export it in opset {newest}"
        ) from error
    newer.ir_version = max(
        newer.ir_version, helper.find_min_ir_version_for(list(newer.opset_import))
    )
    return newer


@dataclass
class Casts:
    """Values as the nodes so far have made them, and the casts between.

    Attributes:
        work: The model being rewritten.
        narrow: The type to convert to.
        suffix: Of the names of values in that type.
        types: Type of every float value so far, as its name now is.
        nodes: The nodes so far.
        made: (value, type) -> the value in that type.
    """

    work: Draft
    narrow: int
    suffix: str
    types: dict[str, int]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[tuple[str, int], str] = field(default_factory=dict)

    def read(self, name: str, kind: int) -> str:
        """Name of a float value in a type, converted once for all that read it so."""
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.made:
            suffix = self.suffix if kind == self.narrow else "float"
            copy = self.work.fresh(f"{name}_{suffix}")
            stored = self.work.arrays.get(name)
            if stored is not None:
                tensor = _narrowed(name, copy, stored, self.narrow)
                self.work.model.graph.initializer.append(tensor)
            else:
                self.nodes.append(helper.make_node("Cast", [name], [copy], name=copy, to=kind))
            self.made[name, kind] = copy
        return self.made[name, kind]


def _converted(model: onnx.ModelProto, narrow: int, suffix: str) -> onnx.ModelProto:
    work = draft(model)
    if any(branches(node) for node in work.model.graph.node):
        raise ValueError(
            f"the model has branches (If, Loop or Scan) and cannot be made {suffix}; "
            "export it without, or use a profile of another precision"
        )
    floats = _floats(work)
    kept = _kept(work)
    casts = Casts(work, narrow, suffix, dict.fromkeys(_given(work), TensorProto.FLOAT))
    results = work.outputs & floats
    for node in work.model.graph.node:
        wide = node.output[0] in kept or _loses_digits(work, node, narrow)
        node = twin(node)
        for at, name in enumerate(node.input):
            if name in floats:
                kind = narrow if not wide and _takes(work, node, at, narrow) else TensorProto.FLOAT
                node.input[at] = casts.read(name, kind)
        renamed: list[tuple[str, str]] = []
        for at, name in enumerate(node.output):
            if name not in floats:
                continue
            narrowed = not wide and _gives(work, node, at, narrow)
            casts.types[name] = narrow if narrowed else TensorProto.FLOAT
            if narrowed:
                _retype(node, narrow)
            if narrowed and name in results:
                inner = work.fresh(f"{name}_{suffix}")
                node.output[at] = inner
                casts.types[inner] = narrow
                casts.made[name, narrow] = inner
                casts.types[name] = TensorProto.FLOAT
                renamed.append((inner, name))
        casts.nodes.append(node)
        for inner, name in renamed:
            casts.nodes.append(
                helper.make_node(
                    "Cast", [inner], [name], name=work.fresh(f"{name}_float"), to=TensorProto.FLOAT
                )
            )
    return work.finish(casts.nodes)


def _given(work: Draft) -> list[str]:
    """Float values that nobody makes: images and weights."""
    images = [
        value.name
        for value in work.model.graph.input
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    return images + [name for name, array in work.arrays.items() if array.dtype == np.float32]


def _floats(work: Draft) -> set[str]:
    """Values of type float32."""
    graph = shape_inference.infer_shapes(work.model).graph
    named = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    untyped = [name for name in work.makers if name not in named]
    if untyped:
        raise ValueError(
            f"the type of {untyped[0]!r} ({work.makers[untyped[0]].op_type}) cannot be inferred, "
            "so the model cannot be converted; use a profile of another precision"
        )
    computed = {name for name, kind in named.items() if kind == TensorProto.FLOAT}
    return computed.union(_given(work))


def _kept(work: Draft) -> set[str]:
    """Outputs of the nodes that stay in float32: norms, and those that make up a decomposed one.

    A statistic is what comes from a reduction and goes through elementwise operators with nothing
    but constants and other statistics. What combines a statistic with the image belongs to the
    norm (the image without its mean, and over its deviation), and so does what only reductions
    read (the squares).
    """
    statistics: set[str] = set()
    kept: set[str] = set()
    for node in work.model.graph.node:
        name = node.output[0]
        if node.op_type in REDUCTIONS:
            statistics.add(name)
        elif node.op_type in ELEMENTWISE:
            computed = [value for value in node.input if value not in work.arrays]
            if not statistics.intersection(computed):
                continue
            if statistics.issuperset(computed):
                statistics.add(name)
        elif node.op_type not in NORMS:
            continue
        kept.add(name)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in work.model.graph.node:
        for value in reads(node):
            readers.setdefault(value, []).append(node)
    for node in work.model.graph.node:
        squares = [reader.op_type in REDUCTIONS for reader in readers.get(node.output[0], [])]
        if node.op_type in ELEMENTWISE and squares and all(squares):
            kept.add(node.output[0])
    return kept


def _loses_digits(work: Draft, node: onnx.NodeProto, narrow: int) -> bool:
    """Whether a quantizer's scale is too small or too large for float16."""
    if node.op_type not in QUANTIZERS or narrow != TensorProto.FLOAT16:
        return False
    scale = work.arrays.get(node.input[1])
    return scale is None or bool(((scale < SMALLEST_NORMAL) | (scale > LARGEST)).any())


def _takes(work: Draft, node: onnx.NodeProto, at: int, kind: int) -> bool:
    """Whether ONNX lets an operator read this type there."""
    schema = defs.get_schema(node.op_type, opset(work.model), node.domain)
    return _allows(schema, schema.inputs[min(at, len(schema.inputs) - 1)].type_str, kind)


def _gives(work: Draft, node: onnx.NodeProto, at: int, kind: int) -> bool:
    schema = defs.get_schema(node.op_type, opset(work.model), node.domain)
    return _allows(schema, schema.outputs[min(at, len(schema.outputs) - 1)].type_str, kind)


def _allows(schema: defs.OpSchema, type_name: str, kind: int) -> bool:
    shown = f"tensor({TensorProto.DataType.Name(kind).lower()})"
    for constraint in schema.type_constraints:
        if constraint.type_param_str == type_name:
            return shown in constraint.allowed_type_strs
    return type_name == shown


def _retype(node: onnx.NodeProto, narrow: int) -> None:
    """Change what a node's attributes say about the type that it makes."""
    for attribute in list(node.attribute):
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.FLOAT:
            put(node, attribute.name, narrow)
        elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(attribute.t)
            put(node, "value", _narrowed(attribute.t.name, attribute.t.name, array, narrow))


def _narrowed(
    title: str, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]], narrow: int
) -> TensorProto:
    """A stored tensor in another type.

    Raises:
        ValueError: A value is finite and beyond float16's range.
    """
    if narrow == TensorProto.FLOAT16:
        finite = np.abs(array[np.isfinite(array)])
        if finite.size and finite.max() > LARGEST:
            raise ValueError(
                f"{title!r} holds {finite.max():.6g}, and the largest float16 is {LARGEST:g}; "
                "use a profile of another precision, or train the student with weight decay"
            )
    dtype = helper.tensor_dtype_to_np_dtype(narrow)
    return numpy_helper.from_array(array.astype(dtype), name)
