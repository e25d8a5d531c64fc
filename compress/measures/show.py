"""An evaluation as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress.measures.report import Evaluation, Figure

DECIMALS = {"fid": 2, "psnr": 2, "psnr_y": 2}

MANY = 2048
"""Images a side from which on a covariance of Inception's 2048 features has full rank."""


def show(console: Console, evaluation: Evaluation) -> None:
    """Print figures with counts and protocol, what was left out and why, and the cost."""
    images = f"{evaluation.images} images"
    if evaluation.source is not None:
        images += f" made of {evaluation.source} on {evaluation.runs_on}"
    console.print(
        escape(f"{evaluation.subject} ({evaluation.kind}): {images}"),
        soft_wrap=True,
    )
    pairs = "in pairs" if evaluation.paired else "not in pairs"
    console.print(
        f"against {escape(evaluation.reference)}: {evaluation.references} references, {pairs}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("measure", "value", "images", "references", "how"):
        table.add_column(heading, justify="right" if heading in RIGHT else "left")
    for figure in evaluation.report.figures:
        table.add_row(
            label(figure),
            f"{figure.value:.{DECIMALS.get(figure.measure, 4)}f}",
            str(figure.images),
            str(figure.references),
            f"{figure.extractor}: {figure.protocol}" if figure.extractor else figure.protocol,
        )
    console.print(table)
    if any(few(figure) for figure in evaluation.report.figures):
        console.print(
            f"With fewer than {MANY} images a side FID is biased high: compare it at equal counts "
            "only, and look at KID, which is not."
        )
    reasons: dict[str, list[str]] = {}
    for name, why in evaluation.report.left_out.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        console.print(f"no {', '.join(names)}: {escape(why)}", soft_wrap=True)
    for file in evaluation.skipped:
        console.print(f"left out, not an image: {escape(file)}", soft_wrap=True)
    cost = evaluation.cost
    if cost is not None:
        console.print(
            f"{cost.params / 1e6:.3f} M parameters; at {cost.image_size} px in, "
            f"{cost.macs / 1e9:.3f} G MACs, {cost.macs_published / 1e9:.3f} G as papers count them"
        )


RIGHT = ("value", "images", "references")


def label(figure: Figure) -> str:
    """What a figure is called: ``FID``, ``PSNR (dB)``."""
    name = figure.measure.upper().replace("_", "-")
    return f"{name} ({figure.unit})" if figure.unit else name


def few(figure: Figure) -> bool:
    """Whether a Frechet distance is of too few images to stand alone."""
    return figure.measure == "fid" and min(figure.images, figure.references) < MANY
