"""What drawings are made of: a frame, axes, lines and words."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from deploy.report.axes import Axis, label
from deploy.report.markup import element

WIDTH = 480.0
"""Of every drawing, so that its letters stay readable on a telephone."""
LETTER = 6.6
"""About as wide as a letter is."""


def drawing_of(title: str, description: str, height: float) -> Element:
    """An empty drawing that says what it will show."""
    return element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH:g} {height:g}",
            "role": "img",
            "aria-label": f"{title}: {description}",
            "class": "plot",
        },
        element("title", {}, title),
        element("desc", {}, description),
    )


def x_axis(
    drawing: Element, axis: Axis, top: float, bottom: float, name: str, *, grid: bool = True
) -> None:
    """Ticks below, with lines up to the top where there is a grid."""
    free = axis.start - 2 * LETTER
    for tick in axis.ticks:
        across, text = axis.at(tick), label(tick)
        drawing.append(line(across, top if grid else bottom, across, bottom + 4, "grid"))
        if across - LETTER * len(text) / 2 >= free:  # never one number over another
            drawing.append(text_at(across, bottom + 17, text, "tick", "middle"))
            free = across + LETTER * (len(text) / 2 + 1)
    drawing.append(text_at((axis.start + axis.end) / 2, bottom + 34, name, "muted", "middle"))


def y_axis(drawing: Element, axis: Axis, left: float, right: float) -> None:
    """Ticks at the left, with lines across."""
    for tick in axis.ticks:
        height = axis.at(tick)
        drawing.append(line(left, height, right, height, "grid"))
        drawing.append(text_at(left - 7, height + 4, label(tick), "tick", "end"))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    """A line between two points."""
    ends = {"x1": f"{x1:g}", "y1": f"{y1:g}", "x2": f"{x2:g}", "y2": f"{y2:g}", "class": kind}
    return element("line", ends)


def text_at(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Element:
    """Words that begin, end or are centred at a point."""
    attributes = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}
    return element("text", attributes | ({"class": kind} if kind else {}), text)


def beginning(name: str, letters: int) -> str:
    """A long name without its end."""
    return name if len(name) <= letters else name[: letters - 3] + "..."


def ending(name: str, letters: int) -> str:
    """A long name without its beginning: layers differ at the end of theirs."""
    return name if len(name) <= letters else "..." + name[3 - letters :]
