"""The parts of a report that are drawn: images, layers and latencies, where they are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from xml.etree.ElementTree import Element

from deploy.evidence import LayerSensitivity
from deploy.report import plots
from deploy.report.figures import Subject, blamed, db_text, name_of, short_name
from deploy.report.markup import NONE, Cell, element, facts, table
from deploy.report.tiles import TILE, Worst, amplification, amplified, data_uri
from deploy.verify import PSNR_CEILING_DB

LEVELS = 255.0
FLOOR_SHOWN = 1.5
"""A floor this many times worse than the worst engine is still drawn."""
BLAMED = 3
"""Layers to name; more of them explain little more."""


def images_section(subject: Subject) -> list[Element]:
    """Golden images through everything, where the engine is worst."""
    worst = subject.worst
    if worst is None:
        return []
    factor = amplification(worst.tiles)
    side = min(TILE, worst.tiles[0].difference.shape[0])
    count = len(worst.tiles)
    which = f"{count} of {worst.images} golden images"
    said = (
        f"The worst {side} x {side} pixels of {which if worst.images > 1 else 'the golden image'}: "
        "where the engine is furthest from the float student. The difference is between these two, "
        f"times {factor}: black is equal, full brightness is {LEVELS / factor:.0f} levels of 255 "
        "or more. No picture here lost anything to compression."
    )
    if worst.runtime:
        said += f" The engine ran through {worst.runtime}."
    made = [element("h3", {}, "Worst images"), element("p", {"class": "note"}, said)]
    made += [_tile(worst, index, factor) for index in range(count)]
    return made


def _tile(worst: Worst, index: int, factor: int) -> Element:
    tile = worst.tiles[index]
    psnr = "equal" if math.isinf(tile.psnr_db) else f"{tile.psnr_db:.1f} dB"
    where = f"golden image {tile.image}, row {tile.row}, column {tile.column}"
    shown = dict(tile.pictures) | {f"difference x {factor}": amplified(tile, factor)}
    grid = element("div", {"class": "tiles"})
    for name, pixels in shown.items():
        height, width = pixels.shape[:2]
        picture = {
            "src": data_uri(pixels),
            "alt": f"{name}, {where}",
            "width": str(width),
            "height": str(height),
        }
        caption = element("figcaption", {}, name)
        grid.append(element("figure", {}, element("img", picture), caption))
    said = element("p", {"class": "note"}, f"{psnr} to the float student; {where}")
    return element("div", {"class": "tile"}, grid, said)


def sensitivity_section(subject: Subject) -> list[Element]:
    """What each layer costs in INT8, and which are to blame."""
    layers = subject.evidence.sensitivity if subject.evidence else ()
    if not layers:
        return []
    lpips = all(one.lpips is not None for one in layers)
    measure = "LPIPS" if lpips else "RMS error, levels of 255"
    bars = [
        plots.Bar(
            name=one.layer,
            value=max(one.lpips or 0.0, 0.0) if lpips else _levels(one.psnr_db),
            text=(f"{one.lpips:.4f}, " if lpips else "") + db_text(one.psnr_db),
            marked=one.reverted,
        )
        for one in layers
    ]
    reverted = sum(one.reverted for one in layers)
    said = (
        "What an image loses when one layer alone is quantized, worst first: "
        f"{len(layers)} layers, {reverted or 'none'} of which ended in float."
    )
    if len(layers) > plots.LAYERS:
        said += f" Drawn are the first {plots.LAYERS}."
    legend = [_legend("bar", "runs in INT8")]
    if reverted:
        legend.append(_legend("bar reverted", "kept in float"))
    made = [
        element("h3", {}, "Layers"),
        element("p", {"class": "note"}, said),
        element("ul", {"class": "legend"}, *legend),
        element("figure", {}, plots.layers(bars, measure=measure)),
    ]
    shares = blamed(layers)[:BLAMED] if subject.shipped.precision == "int8" else []
    if shares:
        names = ", ".join(f"{one.layer} ({share:.0%})" for one, share in shares)
        estimate = "Shares of the squared error of all layers in INT8, if their errors add up."
        made.append(element("p", {}, f"To blame for what is left: {names}. {estimate}"))
    headers = ["layer", "operator", "PSNR", "SSIM", "LPIPS", "runs in"]
    everything = table("", headers, [_layer_row(one) for one in layers], stacked=True)
    made.append(element("details", {}, element("summary", {}, "all layers"), everything))
    return made


def _layer_row(one: LayerSensitivity) -> list[Cell]:
    return [
        Cell(one.layer),
        Cell(one.operator),
        _number(db_text(one.psnr_db)),
        _number(f"{one.ssim:.4f}"),
        _number(NONE if one.lpips is None else f"{one.lpips:.4f}"),
        Cell("float" if one.reverted else "INT8"),
    ]


def pareto_section(subjects: Sequence[Subject], heading: str) -> list[Element]:
    """Every engine measured, of all bundles."""
    found = [
        (index, subject, one)
        for index, subject in enumerate(subjects)
        for one in subject.face.candidates
        if one.p50_ms is not None and one.psnr_db is not None
    ]
    if len(found) < 2:
        return []
    lpips = all(one.lpips is not None for _, _, one in found)
    several = len(subjects) > 1
    points = [
        plots.Point(
            name=(f"{subject.title}: " if several else "") + name_of(one),
            label=short_name(one),
            ms=one.p50_ms or 0.0,
            quality=max(one.lpips or 0.0, 0.0) if lpips else one.psnr_db or 0.0,
            series=index,
            shipped=one.shipped,
        )
        for index, subject, one in found
    ]
    floors = {s.face.floor.lpips if lpips else s.face.floor.psnr_db for s in subjects}
    floor = next(iter(floors)) if len(floors) == 1 else None
    if lpips and floor is not None and floor > FLOOR_SHOWN * max(p.quality for p in points):
        floor = None  # so far off that it would press all points together
    said = "Filled marks shipped; the dotted line joins the engines that none beats in both."
    if not lpips:
        said += f" {PSNR_CEILING_DB:g} dB: differs in rounding only."
    machines = {subject.face.machine.get("fingerprint") for subject in subjects}
    if len(machines) > 1:
        said += " These bundles were measured on different machines."
    figure = element(
        "figure", {}, plots.pareto(points, measure="LPIPS" if lpips else "PSNR, dB", floor=floor)
    )
    if several:
        legend = element("ul", {"class": "legend"})
        for index, subject in enumerate(subjects):
            key = plots.swatch("", series=index)
            legend.append(element("li", {}, key, subject.title))
        figure.append(legend)
    figure.append(element("figcaption", {}, said))
    return [element(heading, {}, "Measured latency against quality"), figure]


def latency_section(subject: Subject) -> list[Element]:
    """How long it took, image by image."""
    face = subject.face
    samples = subject.evidence.samples_ms if subject.evidence else {}
    known = {}
    if face.latency is not None:
        latency, budget = face.latency, face.profile.budget
        known["steady"] = (
            f"p50 {latency.p50_ms:.2f} ms, p90 {latency.p90_ms:.2f} ms, {latency.samples} images"
        )
        known["start"] = f"load {latency.load_ms:.0f} ms, first image {latency.first_ms:.1f} ms"
        known["budget"] = f"p50 {budget.p50_ms:g}, p90 {budget.p90_ms:g}, p99 {budget.p99_ms:g} ms"
    drawn = {name: ms for name, ms in samples.items() if ms}
    if not known and not drawn:
        return []
    made = [element("h3", {}, "Latency")]
    if known:
        made.append(facts(known))
    if drawn and subject.evidence is not None:
        said = (
            f"One interleaved run of {subject.evidence.rounds} rounds. Each plot has its own axis; "
        )
        said += "solid line p50, dashed p90 (where there are enough images to bound it)."
        made.append(element("p", {"class": "note"}, said))
        ours = name_of(subject.shipped)
        order = sorted(drawn, key=lambda name: (name != ours, median(drawn[name])))
        grid = element("div", {"class": "plots"})
        for name in order:
            plot = plots.histogram(name, drawn[name], shipped=name == ours)
            grid.append(element("figure", {}, plot))
        made.append(grid)
    return made


def _legend(kind: str, text: str) -> Element:
    return element("li", {}, plots.swatch(kind), text)


def _levels(psnr_db: float) -> float:
    """RMS error in levels of 8 bits."""
    return LEVELS * float(10 ** (-psnr_db / 20))


def _number(text: str) -> Cell:
    return Cell(text, number=True)
