"""Numbers over the steps of a training as a small SVG drawing, coloured by the page it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from deploy.report.axes import linear
from deploy.report.drawing import WIDTH, drawing_of, line, text_at, x_axis, y_axis
from deploy.report.markup import element

POINTS = 160
"""A curve has at most so many points: each is the mean of what lies between it and the next."""

DASHES = ("", "7 3", "2 3", "8 3 2 3")
"""Each curve has a pattern of its own: colour alone is not for every eye."""

ROW = 18.0
COLUMNS = 2


@dataclass(frozen=True)
class Curve:
    """One number over time.

    Attributes:
        name: What it is called.
        steps: When it was looked at, rising.
        values: What it was then; as many.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def curves(title: str, drawn: Sequence[Curve], *, measure: str, share: bool = False) -> Element:
    """Curves over the same steps, with a legend above them.

    Args:
        title: What the drawing shows.
        drawn: One to four, each with a point or more.
        measure: What the numbers are, with their unit.
        share: Whether they are shares of something: the axis then goes from 0 to 1.

    Raises:
        ValueError: No curve, or more than can be told apart.
    """
    if not 1 <= len(drawn) <= len(DASHES):
        raise ValueError(f"1 to {len(DASHES)} curves can be told apart, got {len(drawn)}")
    thin = [_thinned(curve) for curve in drawn]
    steps = [step for curve in thin for step in curve.steps]
    values = [value for curve in thin for value in curve.values]
    top = 26.0 + ROW * -(-len(thin) // COLUMNS)
    bottom, left, right = top + 190.0, 58.0, WIDTH - 16
    x = linear([0.0, *steps], left, right)
    y = linear([0.0, 1.0] if share else values, bottom, top)
    ends = "; ".join(f"{c.name} from {c.values[0]:.3g} to {c.values[-1]:.3g}" for c in thin)
    said = f"{measure}, step {min(steps):g} to {max(steps):g}: {ends}"
    drawing = drawing_of(title, said, top + 240)
    x_axis(drawing, x, top, bottom, "step")
    y_axis(drawing, y, left, right)
    drawing.append(text_at(left, 14, measure, "muted"))
    for index, curve in enumerate(thin):
        look = {"class": f"series{index}", "stroke-width": "1.8", "fill": "none"}
        look |= {"stroke-dasharray": DASHES[index]} if DASHES[index] else {}
        across = left + (index % COLUMNS) * (right - left) / COLUMNS
        height = 32.0 + ROW * (index // COLUMNS)
        sample = line(across, height - 4, across + 26, height - 4, look["class"])
        sample.attrib.update(look)
        drawing.append(sample)
        drawing.append(text_at(across + 32, height, curve.name, ""))
        places = [f"{x.at(s)},{y.at(v)}" for s, v in zip(curve.steps, curve.values, strict=True)]
        # a line of one point has no length: it would not be seen
        places = places * 2 if len(places) == 1 else places
        drawn_line = element("polyline", {"points": " ".join(places), "stroke-linecap": "round"})
        drawn_line.attrib.update(look)
        drawing.append(drawn_line)
    return drawing


def _thinned(curve: Curve) -> Curve:
    """Means of equally many neighbouring points."""
    pieces = min(len(curve.steps), POINTS)
    if not pieces or len(curve.steps) != len(curve.values):
        raise ValueError(
            f"{curve.name} has {len(curve.steps)} steps and {len(curve.values)} values: as many "
            "of both, one at least"
        )
    steps, values = (
        tuple(float(piece.mean()) for piece in np.array_split(np.asarray(numbers, float), pieces))
        for numbers in (curve.steps, curve.values)
    )
    return Curve(curve.name, steps, values)
