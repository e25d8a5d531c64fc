"""Which graph to build where a device cannot run an operator, or runs it badly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx

from deploy.passes.draft import setting
from deploy.passes.norms import cancel_norms, decompose_norms
from deploy.passes.padding import pad_mode, slice_edge, slice_reflect, without_pads
from deploy.passes.upsampling import cropped, is_padded, sub_pixel
from devices.profile import DeviceProfile


@dataclass(frozen=True)
class Rewrite:
    """A way around an operator.

    Attributes:
        name: For people.
        function: Model to equal model; where it finds nothing to do, the same nodes come out.
        makes: Operators it may bring in; it is no way around where one of them is lacking too.
        cost: What it costs, for people.
    """

    name: str
    function: Callable[[onnx.ModelProto], onnx.ModelProto]
    makes: tuple[str, ...]
    cost: str


REWRITES: Mapping[str, Rewrite] = {
    "Pad": Rewrite(
        "pads inside convolutions or as slices",
        without_pads,
        ("Slice", "Concat"),
        "two copies of the activation at each reflected pad; nothing at a zero one",
    ),
    "Pad(reflect)": Rewrite(
        "reflected pads as slices",
        slice_reflect,
        ("Slice", "Concat"),
        "two copies of the activation at each",
    ),
    "Pad(edge)": Rewrite(
        "repeated pads as slices",
        slice_edge,
        ("Slice", "Concat"),
        "two copies of the activation at each",
    ),
    "InstanceNormalization": Rewrite(
        "instance norms decomposed",
        decompose_norms,
        ("ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div"),
        "more passes over the activation than a native norm, where the compiler fuses none",
    ),
    "ConvTranspose": Rewrite(
        "transposed convolutions as sub-pixel convolutions",
        sub_pixel,
        ("Conv", "DepthToSpace", "Slice"),
        "1.8 times the MACs of a 3x3 kernel, 2.25 times those of a 4x4, none more for a 2x2",
    ),
    "ConvTranspose(padded)": Rewrite(
        "transposed convolutions cropped by slices",
        cropped,
        ("Slice",),
        "a copy of the activation at each",
    ),
}
"""Ways around an operator, by its name as profiles write it."""
CANCELLED = "norms left out that others undo"


def kind(node: onnx.NodeProto) -> str:
    """An operator as profiles write it: its mode in brackets where that makes a difference.

    ``Pad`` adds a constant and ``Resize`` takes the nearest pixel; ``ConvTranspose(padded)`` crops
    its output or adds to it.
    """
    name = str(node.op_type)
    if name == "Pad" and pad_mode(node) != "constant":
        return f"Pad({pad_mode(node)})"
    if name == "Resize" and (mode := setting(node, "mode", "nearest")) != "nearest":
        return f"Resize({mode})"
    if name == "ConvTranspose" and is_padded(node):
        return "ConvTranspose(padded)"
    return name


def kinds(model: onnx.ModelProto) -> Counter[str]:
    """How often each kind of operator occurs, subgraphs included."""
    return _kinds(model.graph)


def covers(entries: Collection[str], name: str) -> bool:
    """Whether a profile's list names a kind of operator, itself or without its mode."""
    return name in entries or name.partition("(")[0] in entries


def without(
    model: onnx.ModelProto, unsupported: Collection[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model with as few of some operators as there is a way around.

    Args:
        model: Any ONNX model; not changed.
        unsupported: Kinds of operators; ``Pad`` stands for ``Pad(reflect)`` and all others.

    Returns:
        An equal model, and the names of the rewrites that changed something.
    """
    applied: list[str] = []
    for name, rewrite in REWRITES.items():
        if name not in unsupported or any(covers(unsupported, made) for made in rewrite.makes):
            continue
        rewritten = rewrite.function(model)
        if kinds(rewritten) != kinds(model):
            model = rewritten
            applied.append(rewrite.name)
    return model, tuple(applied)


def variants(model: onnx.ModelProto, profile: DeviceProfile) -> list[tuple[str, onnx.ModelProto]]:
    """The equal graphs worth building for a device, each with a name for people.

    First the exported one, without what the device cannot run; then, where that makes a
    difference, one without what it runs badly and without norms that others undo.
    """
    plain, _ = without(model, profile.unsupported_operators)
    fewer = cancel_norms(plain)
    cancelled = (CANCELLED,) if kinds(fewer) != kinds(plain) else ()
    # what the device cannot run is named again, so that no rewrite brings it back
    faster, applied = without(fewer, {*profile.slow_operators, *profile.unsupported_operators})
    graphs = [("as exported", plain)]
    if cancelled or applied:
        graphs.append(("; ".join(cancelled + applied), faster))
    return graphs


def _kinds(graph: onnx.GraphProto) -> Counter[str]:
    counts: Counter[str] = Counter()
    for node in graph.node:
        counts[kind(node)] += 1
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                counts += _kinds(inner)
    return counts
