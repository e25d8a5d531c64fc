"""Plots as small SVG drawings, coloured by the page they are in.

What a drawing shows is also said in words, in its ``title`` and ``desc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np

from deploy.report.axes import Axis, label, latency, linear
from deploy.report.drawing import (
    LETTER,
    WIDTH,
    beginning,
    drawing_of,
    ending,
    line,
    text_at,
    x_axis,
    y_axis,
)
from deploy.report.markup import element
from devices.percentiles import percentile

SERIES = 4
"""Shapes and colours there are; more series begin anew."""
BINS = 24
LAYERS = 24
"""Bars of a plot of layers: beyond that nobody reads them, and the table has all."""


@dataclass(frozen=True)
class Point:
    """One engine in a plot of latency against quality.

    Attributes:
        name: What it is called.
        label: The same in a word or two.
        ms: Median latency.
        quality: LPIPS or PSNR.
        series: Which bundle it belongs to, from 0.
        shipped: Whether it is the one that ships.
    """

    name: str
    label: str
    ms: float
    quality: float
    series: int
    shipped: bool


@dataclass(frozen=True)
class Bar:
    """One layer in a plot of what quantizing it costs."""

    name: str
    value: float
    text: str
    marked: bool


def front(points: Sequence[Point], *, low_is_good: bool) -> list[Point]:
    """The points that no other beats in both, fastest first."""
    sign = 1.0 if low_is_good else -1.0
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, sign * p.quality)):
        if not best or sign * point.quality < sign * best[-1].quality:
            best.append(point)
    return best


def pareto(
    points: Sequence[Point], *, measure: Literal["LPIPS", "PSNR, dB"], floor: float | None
) -> Element:
    """Latency against quality, with the line along the engines that none beats in both.

    Args:
        points: At least one.
        measure: What quality is; a low LPIPS and a high PSNR are good.
        floor: The worst quality that may ship, or None where there is not one for all.
    """
    low_is_good = measure == "LPIPS"
    best = front(points, low_is_good=low_is_good)
    floors = [] if floor is None else [floor]
    top, bottom, left, right = 26.0, 270.0, 58.0, WIDTH - 16
    x = latency([point.ms for point in points], left, right)
    y = linear([*(p.quality for p in points), *floors], bottom, top, zero=low_is_good)
    drawing = drawing_of(
        "Measured latency against quality",
        f"{measure} of {len(points)} engines over their p50 latency in ms. None is both faster and "
        "closer to float than these: " + "; ".join(f"{p.name}, {p.ms:.2f} ms" for p in best),
        320.0,
    )
    x_axis(drawing, x, top, bottom, "p50 latency, ms" + (" (logarithmic)" * x.logarithmic))
    y_axis(drawing, y, left, right)
    good = "lower is closer to float" if low_is_good else "higher is closer to float"
    drawing.append(text_at(left, 14, f"{measure}: {good}", "muted"))
    if floor is not None:
        height = y.at(floor)
        drawing.append(line(left, height, right, height, "floor"))
        drawing.append(text_at(right, height - 5, f"floor {floor:g}", "muted", "end"))
    steps = [f"{x.at(best[0].ms)},{y.at(best[0].quality)}"]
    for before, point in pairwise(best):
        steps += [
            f"{x.at(point.ms)},{y.at(before.quality)}",
            f"{x.at(point.ms)},{y.at(point.quality)}",
        ]
    drawing.append(element("polyline", {"points": " ".join(steps), "class": "front"}))
    for point in sorted(points, key=lambda p: p.shipped):
        drawing.append(_mark(x.at(point.ms), y.at(point.quality), point))
    named = [point for point in points if point.shipped or point in best]
    for text in _names(sorted(named, key=lambda p: not p.shipped), points, x, y):
        drawing.append(text)
    return drawing


def histogram(name: str, samples_ms: Sequence[float], *, shipped: bool) -> Element:
    """How often an engine took how long, with its p50 and, where samples allow, its p90.

    The axis ends where the few slowest would squeeze the others; the last bin holds those too.

    Args:
        name: What the engine is called.
        samples_ms: At least one.
        shipped: Whether it is the one that ships.
    """
    samples = np.asarray(samples_ms, dtype=np.float64)
    p50 = float(np.percentile(samples, 50))
    marks = {"p50": p50}
    bounded = percentile(samples_ms, 90)
    if bounded is not None:
        marks["p90"] = bounded.value_ms
    spread = max(float(np.percentile(samples, 90)) - p50, 0.02 * p50)
    low, high = float(samples.min()), float(min(samples.max(), p50 + 4 * spread))
    top, bottom, left, right = 40.0, 130.0, 18.0, WIDTH - 18
    x = linear([low, high], left, right, count=6)
    counts, edges = np.histogram(np.clip(samples, x.low, x.high), BINS, (x.low, x.high))
    y = linear([float(counts.max())], bottom, top, zero=True)
    beyond = int((samples > x.high).sum())
    said = ", ".join(f"{mark} {value:.2f} ms" for mark, value in marks.items())
    said += f", {len(samples)} image{'s' * (len(samples) != 1)}"
    if beyond:
        said += f", {beyond} slower than {label(x.high)}, up to {samples.max():.1f}"
    drawing = drawing_of(f"Latency of {name}", said, 170.0)
    x_axis(drawing, x, top, bottom, "ms", grid=False)
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        if count:
            across, height = x.at(float(start)), y.at(float(count))
            drawing.append(
                element(
                    "rect",
                    {
                        "x": f"{across + 0.5:g}",
                        "y": f"{height:g}",
                        "width": f"{x.at(float(end)) - across - 1:.1f}",
                        "height": f"{bottom - height:.1f}",
                        "class": "bar shipped" if shipped else "bar",
                    },
                )
            )
    drawing.append(line(left, bottom, right, bottom, "axis"))
    for index, value in enumerate(marks.values()):
        across = x.at(value)
        drawing.append(line(across, top - 5, across, bottom, f"mark mark{index}"))
    drawing.append(text_at(left, 14, beginning(name, 64), "strong"))
    drawing.append(text_at(left, 29, said, "muted"))
    return drawing


def layers(bars: Sequence[Bar], *, measure: str) -> Element:
    """What it costs to quantize one layer alone, a bar each, in the order given.

    Args:
        bars: At least one; the first `LAYERS` are drawn. ``marked`` ones ended in float.
        measure: What the bars are, with its unit.
    """
    drawn, height, top = bars[:LAYERS], 19.0, 30.0
    left, right = 168.0, WIDTH - 128
    bottom = top + height * len(drawn)
    x = linear([bar.value for bar in drawn], left, right, zero=True, count=3)
    drawing = drawing_of(
        "What quantizing one layer alone costs",
        f"{measure}; worst first: " + "; ".join(f"{bar.name} {bar.text}" for bar in drawn[:5]),
        bottom + 40,
    )
    x_axis(drawing, x, top, bottom, measure)
    for index, bar in enumerate(drawn):
        y = top + height * index
        name = text_at(left - 6, y + 13, ending(bar.name, 24), "", "end")
        name.append(element("title", {}, bar.name))
        drawing.append(name)
        width = max(x.at(bar.value) - left, 1.0)
        drawing.append(
            element(
                "rect",
                {
                    "x": f"{left:g}",
                    "y": f"{y + 3:g}",
                    "width": f"{width:.1f}",
                    "height": f"{height - 6:g}",
                    "class": "bar reverted" if bar.marked else "bar",
                },
            )
        )
        drawing.append(text_at(left + width + 5, y + 13, bar.text, "muted"))
    drawing.append(line(left, top, left, bottom, "axis"))
    return drawing


def swatch(kind: str, *, series: int | None = None) -> Element:
    """A small square in the colour of a kind of bar, or the mark of a series, for a legend."""
    small = element("svg", {"viewBox": "0 0 14 14", "class": "swatch", "aria-hidden": "true"})
    if series is not None:
        small.append(_mark(7, 7, Point("", "", 0, 0, series, shipped=False)))
    else:
        small.append(
            element("rect", {"x": "1", "y": "2", "width": "12", "height": "10", "class": kind})
        )
    return small


def _mark(x: float, y: float, point: Point) -> Element:
    """Each series has a shape of its own: colour alone is not for every eye."""
    size = 7.0 if point.shipped else 4.5
    kind = f"point series{point.series % SERIES}" + (" shipped" if point.shipped else "")
    shape = point.series % SERIES
    if shape == 0:
        circle = {"cx": f"{x:g}", "cy": f"{y:g}", "r": f"{size:g}", "class": kind}
        mark = element("circle", circle)
    else:
        corners = {
            1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
            2: ((0, -1.25), (1.2, 0.9), (-1.2, 0.9)),
            3: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        }[shape]
        path = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
        mark = element("polygon", {"points": path, "class": kind})
    if point.name:
        words = f"{point.name}: {point.ms:.2f} ms, {point.quality:.4g}"
        mark.append(element("title", {}, words))
    return mark


def _names(named: Sequence[Point], points: Sequence[Point], x: Axis, y: Axis) -> list[Element]:
    """Names beside their points, where they cover no point and no other name."""
    taken = [
        (x.at(p.ms) - 7, y.at(p.quality) - 7, x.at(p.ms) + 7, y.at(p.quality) + 7) for p in points
    ]
    texts = []
    for point in named:
        across, height, text = x.at(point.ms), y.at(point.quality), beginning(point.label, 30)
        width = LETTER * len(text)
        places = (
            (across + 11, height + 4, "start"),
            (across - 11, height + 4, "end"),
            (across, height - 12, "middle"),
            (across, height + 21, "middle"),
        )
        for left, base, anchor in places:
            first = left - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (first, base - 11, first + width, base + 3)
            inside = box[0] >= x.start + 2 and box[2] <= WIDTH - 2 and box[3] <= y.start
            if inside and not any(_cover(box, other) for other in taken):
                taken.append(box)
                kind = "name strong" if point.shipped else "name"
                texts.append(text_at(left, base, text, kind, anchor))
                break
    return texts


Box = tuple[float, float, float, float]


def _cover(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
