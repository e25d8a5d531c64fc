"""The receptive field of a generator, exactly, from its graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import onnx

from deploy.graph import input_name
from deploy.passes.draft import Draft, branches
from deploy.tiling.operators import NORM, BlockedError, Lines, Steps, steps_of
from deploy.tiling.spec import Halo
from deploy.tiling.steps import Line, Span

MEASURES = ("Shape", "Size")
"""Operators that ask for a size and read no pixel."""


@dataclass(frozen=True)
class Survey:
    """What the nodes of a graph do to rows and columns.

    Attributes:
        lines: For each tensor that is a map of the image: how many rows and columns it has.
        steps: For each of those but the image, what the node that makes it does.
        norms: The InstanceNormalizations, in order.
        obstacles: What cannot be run on tiles, one sentence each.
        alignment: Rows and columns of the image that every map has a whole number of positions for.
    """

    lines: dict[str, Lines]
    steps: dict[str, Steps]
    norms: tuple[onnx.NodeProto, ...]
    obstacles: tuple[str, ...]
    alignment: tuple[int, int]

    def maps(self, names: Iterable[str]) -> list[str]:
        """Those of some names that are maps of the image."""
        return [name for name in names if name in self.lines]


def survey(work: Draft) -> Survey:
    """Walk through a graph from the image on."""
    image = Line(Fraction(1), 0)
    lines: dict[str, Lines] = {input_name(work.model): (image, image)}
    steps: dict[str, Steps] = {}
    sizes: set[str] = set()
    norms: list[onnx.NodeProto] = []
    obstacles: list[str] = []
    for node in work.model.graph.node:
        read = [name for name in node.input if name in lines]
        if node.op_type in MEASURES or (not read and sizes.intersection(node.input)):
            sizes.update(node.output)
            continue
        if not read and not branches(node):
            continue  # of stored tensors only
        try:
            if branches(node) or not read:
                raise BlockedError("has branches")
            if sizes.intersection(node.input):
                raise BlockedError("computes with the size of the image")
            if any(lines[name] != lines[read[0]] for name in read):
                raise BlockedError("reads maps of different sizes")
            how = steps_of(work, node, lines[read[0]])
            if node.op_type == NORM:
                norms.append(node)
        except BlockedError as blocked:
            obstacles.append(f"{title(node)} {blocked}")
            # go on, so that whoever asks hears of everything at once
            lines |= dict.fromkeys(node.output, next(iter(lines.values())))
            continue
        made = tuple(step.ahead(line) for step, line in zip(how, lines[read[0]], strict=True))
        for name in filter(None, node.output):
            lines[name], steps[name] = (made[0], made[1]), how
    alignment = tuple(
        math.lcm(*(line[axis].per_pixel.denominator for line in lines.values())) for axis in (0, 1)
    )
    return Survey(lines, steps, tuple(norms), tuple(obstacles), (alignment[0], alignment[1]))


def title(node: onnx.NodeProto) -> str:
    """A node as people find it: operator and name."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def halo(
    found: Survey, nodes: Sequence[onnx.NodeProto], made: Iterable[str], read: Iterable[str]
) -> Halo:
    """Pixels around a tile on which what is made in it depends.

    Args:
        found: Of the whole graph.
        nodes: The part of it in question, in order.
        made: Tensors that are wanted of the tile.
        read: Tensors that the part begins with.
    """
    wanted, starts = list(made), list(read)
    sides = [_sides(found, nodes, wanted, starts, axis) for axis in (0, 1)]
    (top, bottom), (left, right) = sides
    return Halo(top=top, bottom=bottom, left=left, right=right)


def _sides(
    found: Survey, nodes: Sequence[onnx.NodeProto], made: list[str], read: list[str], axis: int
) -> tuple[int, int]:
    unit = found.alignment[axis]
    rates = {name: found.lines[name][axis].per_pixel for name in {*made, *read}}
    spans: dict[str, Span] = {name: (0, int(rates[name] * unit)) for name in made}
    for node in reversed(nodes):
        outputs = [spans[name] for name in node.output if name in spans]
        if not outputs:
            continue
        span = found.steps[node.output[0]][axis].back(_union(outputs))
        for name in found.maps(node.input):
            spans[name] = _union([span, *([spans[name]] if name in spans else [])])
    before = after = 0
    for name in read:
        low, high = spans.get(name, (0, 0))
        before = max(before, math.ceil(-low / rates[name]))
        after = max(after, math.ceil(high / rates[name]) - unit)
    return -(-before // unit) * unit, -(-after // unit) * unit


def _union(spans: list[Span]) -> Span:
    return min(low for low, _ in spans), max(high for _, high in spans)
