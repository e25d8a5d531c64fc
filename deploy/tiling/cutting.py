"""An engine cut at its InstanceNormalizations, so that each part can run on tiles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from deploy.graph import input_name
from deploy.passes.draft import Array, Draft, draft, given, setting, twin
from deploy.rewiring import reads
from deploy.tiling.operators import NORM
from deploy.tiling.spec import FeatureMap, Halo, Kind, Segment, Source, Tiling
from deploy.tiling.survey import Survey, halo, survey, title

KINDS: dict[int, Kind] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
}


@dataclass
class Part:
    """What a segment will be made of, while it is collected.

    Attributes:
        made: Tensors that it must make.
        nodes: Names of first outputs of the nodes that make them.
        sources: Its inputs, by name.
    """

    made: dict[str, None] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    sources: dict[str, Source] = field(default_factory=dict)


def plan_tiling(
    model: onnx.ModelProto, *, size_multiple: int
) -> tuple[Tiling, dict[str, onnx.ModelProto]]:
    """How an engine's graph is run on tiles, and its segments by file name.

    There are segments only where an InstanceNormalization looks at the whole image. Where something
    stands in the way of tiles, the answer says what, and has neither halo nor segments.

    Args:
        model: The graph that the engine was compiled from, in standard operators.
        size_multiple: What images are padded to before they reach it.
    """
    work = draft(model)
    found = survey(work)
    obstacles = list(found.obstacles)
    image, translation = input_name(work.model), work.model.graph.output[0].name
    kinds = _kinds(work)
    if translation not in found.lines:
        obstacles.append("the translation does not depend on the image")
    elif not obstacles:
        obstacles += _unfit(work, found, kinds, translation, size_multiple)
    if obstacles:
        return (
            Tiling(image=image, translation=None, halo=None, obstacles=tuple(obstacles)),
            {},
        )
    plain: Halo | None = None
    segments: tuple[Segment, ...] = ()
    files: dict[str, onnx.ModelProto] = {}
    if found.norms:
        segments, files = _cut(work, found, kinds, image, translation)
    else:
        plain = halo(found, list(work.model.graph.node), [translation], [image])
    tiling = Tiling(
        alignment=found.alignment,
        image=image,
        translation=_feature_map(found, kinds, translation),
        halo=plain,
        norms=tuple(title(node) for node in found.norms),
        segments=segments,
    )
    return tiling, files


def _unfit(
    work: Draft,
    found: Survey,
    kinds: dict[str, tuple[Kind, int]],
    translation: str,
    size_multiple: int,
) -> list[str]:
    """What is wrong with a graph whose every operator could be run on tiles."""
    reasons = []
    if any(size_multiple % unit for unit in found.alignment):
        reasons.append(
            f"images are padded to multiples of {size_multiple}, and tiles would start at "
            f"multiples of {found.alignment[0]} rows and {found.alignment[1]} columns"
        )
    for name in (translation, *(node.input[0] for node in found.norms)):
        if any(line.extra for line in found.lines[name]):
            reasons.append(f"{name!r} has another size than a multiple of the image's")
        elif name not in kinds:
            reasons.append(f"{name!r} has no known type and number of channels")
    for node in found.norms:
        if any(given(node, at) not in work.arrays for at in (1, 2)):
            reasons.append(f"{title(node)} computes its scale or shift")
    return reasons


def _cut(
    work: Draft, found: Survey, kinds: dict[str, tuple[Kind, int]], image: str, translation: str
) -> tuple[tuple[Segment, ...], dict[str, onnx.ModelProto]]:
    """Segments and their graphs: all that lies between one rank of norms and the next."""
    ranks = _ranks(work, found, image)
    norms = {node.output[0]: node for node in found.norms}
    parts = [Part() for _ in range(ranks[translation] + 1)]
    parts[-1].made[translation] = None
    # from the last to the first: what one reads, an earlier one makes
    for rank in reversed(range(len(parts))):
        part = parts[rank]
        if rank + 1 < len(parts):
            for node in found.norms:
                if ranks[node.output[0]] == rank + 1 and node.input[0] != image:
                    part.made[node.input[0]] = None
        for name in list(part.made):
            _collect(work, ranks, norms, part, rank, name)
        for source in part.sources.values():
            if source.map != image:
                parts[ranks[source.map]].made[source.map] = None
    segments: list[Segment] = []
    files: dict[str, onnx.ModelProto] = {}
    for part in (one for one in parts if one.made):
        file = f"segment-{len(segments):02d}.onnx"
        nodes = [node for node in work.model.graph.node if node.output[0] in part.nodes]
        files[file], sources = _graph(work, kinds, norms, nodes, part)
        segments.append(
            Segment(
                file=file,
                halo=halo(found, nodes, part.made, part.sources),
                sources=sources,
                maps=tuple(_feature_map(found, kinds, name) for name in part.made),
            )
        )
    return tuple(segments), files


def _ranks(work: Draft, found: Survey, image: str) -> dict[str, int]:
    """How many norms lie before each map, at most."""
    ranks = {image: 0}
    for node in work.model.graph.node:
        maps = found.maps(node.input)
        if maps:
            rank = max(ranks[name] for name in maps) + (node.op_type == NORM)
            ranks |= dict.fromkeys(filter(None, node.output), rank)
    return ranks


def _collect(
    work: Draft,
    ranks: dict[str, int],
    norms: dict[str, onnx.NodeProto],
    part: Part,
    rank: int,
    name: str,
) -> None:
    """Put what makes a tensor into a part: nodes of its rank, and from where it reads the rest."""
    pending = [name]
    while pending:
        name = pending.pop()
        maker = work.makers.get(name)
        kept = name in ranks and ranks[name] < rank
        if name in norms:
            node = norms[name]
            part.sources[name] = Source(
                tensor=name, map=node.input[0], epsilon=float(setting(node, "epsilon", 1e-5))
            )
        elif maker is None:
            if name in ranks:  # the image; the others are stored
                part.sources[name] = Source(tensor=name, map=name)
        elif kept and maker.op_type != "DequantizeLinear":
            part.sources[name] = Source(tensor=name, map=name)
        elif maker.output[0] not in part.nodes:
            # a value that is dequantized is kept in integers: a quarter of the memory
            part.nodes.add(maker.output[0])
            pending += maker.input


def _graph(
    work: Draft,
    kinds: dict[str, tuple[Kind, int]],
    norms: dict[str, onnx.NodeProto],
    nodes: list[onnx.NodeProto],
    part: Part,
) -> tuple[onnx.ModelProto, tuple[Source, ...]]:
    """The graph of a segment, and its inputs; what a norm leaves there is its scale and shift."""
    weights: dict[str, Array] = {}
    begun: list[onnx.NodeProto] = []
    sources: list[Source] = []
    inputs: list[onnx.ValueInfoProto] = []
    for tensor, source in part.sources.items():
        wanted = tensor
        for at, operator, nothing in ((2, "Add", 0), (1, "Mul", 1)):
            array = work.arrays[norms[tensor].input[at]] if tensor in norms else np.array(nothing)
            if (array == nothing).all():
                continue
            # from the last to the first: each is given what the next one makes
            before, stored = (work.fresh(f"{tensor}_{operator.lower()}_{x}") for x in ("in", "by"))
            weights[stored] = array.reshape(1, -1, 1, 1)
            begun.insert(0, helper.make_node(operator, [before, stored], [wanted], name=stored))
            wanted = before
        sources.append(source.model_copy(update={"tensor": wanted}))
        inputs.append(_value(wanted, kinds[source.map], "in"))
    read = {name for node in nodes for name in reads(node)}
    stored_tensors = [tensor for tensor in work.model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(
        [*begun, *(twin(node) for node in nodes)],
        "segment",
        inputs,
        [_value(name, kinds[name], "out") for name in part.made],
        [*stored_tensors, *(numpy_helper.from_array(one, name) for name, one in weights.items())],
    )
    opsets = list(work.model.opset_import)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=work.model.ir_version)
    return model, tuple(sources)


def _kinds(work: Draft) -> dict[str, tuple[Kind, int]]:
    """Type and channels of every map that has them and could be kept."""
    graph = shape_inference.infer_shapes(work.model).graph
    kinds: dict[str, tuple[Kind, int]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        kind, dims = KINDS.get(tensor.elem_type), tensor.shape.dim
        if kind is not None and len(dims) == 4 and dims[1].dim_value > 0:
            kinds[value.name] = (kind, int(dims[1].dim_value))
    return kinds


def _value(name: str, kind: tuple[Kind, int], side: str) -> onnx.ValueInfoProto:
    code = next(code for code, known in KINDS.items() if known == kind[0])
    rows, columns = (f"{side}_{axis}_{name}" for axis in ("rows", "columns"))
    return helper.make_tensor_value_info(name, code, [1, kind[1], rows, columns])


def _feature_map(found: Survey, kinds: dict[str, tuple[Kind, int]], name: str) -> FeatureMap:
    kind, channels = kinds[name]
    rows, columns = (line.per_pixel for line in found.lines[name])
    return FeatureMap(
        name=name,
        channels=channels,
        rows=(rows.numerator, rows.denominator),
        columns=(columns.numerator, columns.denominator),
        kind=kind,
    )
