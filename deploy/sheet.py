"""One picture of what a bundle does: golden images through teacher, student and engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploy.artifacts import Bundle
from deploy.engines import as_host
from deploy.golden import GoldenPairs
from deploy.grid import draw_grid
from deploy.imaging import Pixels, from_model, to_model
from deploy.verify import psnr
from devices.session import open_session

ROWS = 3


def write_sheet(bundle: Bundle, path: Path) -> None:
    """Draw input, teacher, float student, engine and truth, side by side, for some golden images.

    Teacher and truth only where they are known.

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
    spec = face.model.pixels
    engine = [
        from_model(session.run(to_model(golden.source[index], spec)), spec)[0] for index in chosen
    ]
    columns: dict[str, list[Pixels]] = {"input": [golden.source[index] for index in chosen]}
    if golden.teacher is not None:
        columns["teacher"] = [golden.teacher[index] for index in chosen]
    columns["student, float"] = list(from_model(golden.student[chosen], spec))
    columns[f"student, {face.precision}"] = engine
    truth = None if golden.target is None else [golden.target[index] for index in chosen]
    drawn = {name + _gain(images, truth): images for name, images in columns.items()}
    if truth is not None:
        drawn["truth"] = truth
    draw_grid(drawn).save(path, optimize=True)


def _gain(images: list[Pixels], truth: list[Pixels] | None) -> str:
    if truth is None or images[0].shape != truth[0].shape:
        return ""
    pairs = zip(images, truth, strict=True)
    mean = np.mean([psnr(a.astype("f4"), b.astype("f4"), data_range=255.0) for a, b in pairs])
    return f"  {mean:.1f} dB"
