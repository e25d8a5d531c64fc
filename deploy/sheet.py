"""One picture of what a bundle does: golden images through teacher, student and engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deploy.artifacts import Bundle, GoldenPairs
from deploy.engines import as_host
from deploy.imaging import Pixels, from_model, to_model
from deploy.verify import psnr
from devices.session import open_session

ROWS = 3
GAP = 6
HEADER = 34
INK, PAPER = "#1d1d1f", "#ffffff"


def write_sheet(bundle: Bundle, path: Path) -> None:
    """Draw input, teacher, float student, engine and truth, side by side, for some golden images.

    Above each column but the first stands its mean PSNR to the truth over the rows drawn, where
    there is a truth.

    Args:
        bundle: What to draw; one that is not compiled is drawn through this machine's CPU.
        path: A ``.png`` file, replaced.
    """
    face = bundle.manifest
    profile = face.profile if face.compiled else as_host(face.profile)
    backend = face.backend if face.compiled else "onnxruntime"
    session = open_session(bundle.engine, profile, backend=backend, precision=face.precision)
    golden = GoldenPairs.read(bundle.golden)
    # evenly through the set: neighbours are often crops of one photo
    count = min(ROWS, len(golden.source))
    chosen = [(2 * row + 1) * len(golden.source) // (2 * count) for row in range(count)]
    engine = [from_model(session.run(to_model(golden.source[index])))[0] for index in chosen]
    columns: dict[str, list[Pixels]] = {
        "input": [golden.source[index] for index in chosen],
        "teacher": [golden.teacher[index] for index in chosen],
        "student, float": list(from_model(golden.student[chosen])),
        f"student, {face.precision}": engine,
    }
    truth = None if golden.target is None else [golden.target[index] for index in chosen]
    labels = {name: name + _gain(images, truth) for name, images in columns.items()}
    if truth is not None:
        columns["truth"], labels["truth"] = truth, "truth"
    _draw(columns, labels).save(path, optimize=True)


def _gain(images: list[Pixels], truth: list[Pixels] | None) -> str:
    if truth is None or images[0].shape != truth[0].shape:
        return ""
    pairs = zip(images, truth, strict=True)
    mean = np.mean([psnr(a.astype("f4"), b.astype("f4"), data_range=255.0) for a, b in pairs])
    return f"  {mean:.1f} dB"


def _draw(columns: dict[str, list[Pixels]], labels: dict[str, str]) -> Image.Image:
    height, width = max(images[0].shape[:2] for images in columns.values())
    rows = len(next(iter(columns.values())))
    size = (len(columns) * (width + GAP) + GAP, HEADER + rows * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for column, (name, images) in enumerate(columns.items()):
        left = GAP + column * (width + GAP)
        draw.text((left, HEADER / 2), labels[name], fill=INK, font=font, anchor="lm")
        for row, pixels in enumerate(images):
            image = Image.fromarray(pixels)
            if image.size != (width, height):  # a super-resolution input
                image = image.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(image, (left, HEADER + row * (height + GAP)))
    return sheet
