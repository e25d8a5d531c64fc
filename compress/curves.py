"""What the log of a training shows, drawn: how its games went, and which gates were open."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.report.curves import Curve, curves
from deploy.report.markup import Node, document, element
from deploy.report.style import STYLE

MOST = 4
"""Curves of one drawing."""

OPEN = "gates/open_"
GAPS = {"gates/gap_teacher": "teacher, averaged", "gates/gap_student": "student"}

Series = Mapping[str, Curve]
"""The numbers of a log by their names."""


def read_metrics(logs: Sequence[Path]) -> Series:
    """Every number of some ``metrics.jsonl`` over its steps; some are not there at every step.

    Args:
        logs: Of stages, one after the other; the steps of each are counted on from the one before.

    Raises:
        ValueError: No such file, or a line that is not one of a log.
    """
    steps: dict[str, list[float]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    before = last = 0.0
    for metrics in logs:
        if not metrics.is_file():
            raise ValueError(f"there is no log {metrics}: it is written while a recipe trains")
        for number, row in enumerate(metrics.read_text().splitlines(), start=1):
            try:
                numbers = json.loads(row)
                last = before + float(numbers.pop("step"))
                for name, value in numbers.items():
                    steps[name].append(last)
                    values[name].append(float(value))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"line {number} of {metrics} is none of a log ({error})"
                ) from error
        before = last
    return {name: Curve(name, steps[name], values[name]) for name in steps}


def write_curves(logs: Sequence[Path], out: Path) -> None:
    """One page with the balance of a training: discriminators' losses, gaps, and open gates.

    A discriminator's loss that goes to zero has won, and its generator learns nothing more from it.

    Where a training was too short for any of that, there is no page.

    Args:
        logs: ``metrics.jsonl`` of its stages, in order.
        out: The HTML page.

    Raises:
        ValueError: A log cannot be read.
    """
    series = read_metrics(logs)
    figures: list[Node] = []
    games = [c for name, c in series.items() if name.split("/")[0].endswith("discriminator")]
    games = [
        Curve(c.name.split("/")[0].replace("_", " "), c.steps, c.values)
        for c in games
        if c.name.endswith("/adversarial")
    ][:MOST]
    if games:
        figures.append(
            _figure(
                "Loss of the discriminators",
                games,
                "loss",
                "Near zero the discriminator has won: it tells every image, and teaches nothing.",
            )
        )
    gaps = [
        Curve(said, series[name].steps, series[name].values)
        for name, said in GAPS.items()
        if name in series
    ]
    if gaps:
        figures.append(
            _figure(
                "How far each game is from a draw",
                gaps,
                "gap",
                "Loss of fooling the judge less the loss of judging the image fake, absolute.",
            )
        )
    layers = [name for name in series if name.startswith(OPEN)]
    gates = [
        Curve(f"layer {name.removeprefix(OPEN)}", series[name].steps, series[name].values)
        for name in layers[:MOST]
    ]
    if gates:
        figures.append(
            _figure(
                "Open gates of the student's discriminator",
                gates,
                "share of a layer's channels that are switched on",
                "Layer 1 looks at the image.",
                share=True,
            )
        )
    if not figures:
        return
    page = document("Balance of a training", STYLE, [element("h1", {}, "Balance"), *figures])
    part = out.with_name(f".{out.name}")
    part.write_text(page)
    part.replace(out)


def _figure(
    title: str, drawn: list[Curve], measure: str, said: str, *, share: bool = False
) -> Node:
    return element(
        "figure",
        {},
        element("h2", {}, title),
        curves(title, drawn, measure=measure, share=share),
        element("figcaption", {}, said),
    )
