"""Where an engine is furthest from the float student: the worst part of each golden image."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.artifacts import Bundle
from deploy.engines import as_host
from deploy.golden import GoldenPairs
from deploy.imaging import Pixels, from_model, to_model
from devices.machine import available
from devices.session import DeviceError, Session, open_session

TILE = 128
"""Side of a tile of the output, in pixels; a whole image would hide what is wrong with a part."""
TILES = 4
STRIDE = 8
"""How finely the worst part is looked for, in pixels."""


@dataclass(frozen=True)
class Tile:
    """One part of one golden image, as everything made it.

    Attributes:
        image: Index of the golden image.
        row: Top of the part, in pixels of the output.
        column: Left of the part.
        psnr_db: PSNR of the engine to the float student in this part, after rounding to 8 bits;
            infinite where they are equal.
        pictures: ``{what made it: (H, W, 3)}``, in the order to show them.
        difference: Engine less float student, in levels of 8 bits, (H, W, 3).
    """

    image: int
    row: int
    column: int
    psnr_db: float
    pictures: dict[str, Pixels]
    difference: NDArray[np.int16]


@dataclass(frozen=True)
class Worst:
    """The worst tiles, worst first.

    Attributes:
        tiles: One of each image at most.
        images: How many golden images were looked at.
        runtime: What ran the engine, where that was not its own runtime on its own device.
    """

    tiles: tuple[Tile, ...]
    images: int
    runtime: str


def worst_tiles(bundle: Bundle) -> Worst:
    """Run the shipped engine on every golden image and cut out where it is furthest from float.

    Raises:
        DeviceError: Nothing here can run the engine; the message says why.
    """
    face = bundle.manifest
    golden = GoldenPairs.read(bundle.golden)
    session, runtime = _session(bundle)
    spec = face.model.pixels
    student = from_model(golden.student, spec)
    tiles = []
    for index, source in enumerate(golden.source):
        engine = from_model(session.run(to_model(source, spec)), spec)[0]
        if engine.shape != student[index].shape:
            raise DeviceError(
                f"golden image {index} came out as {engine.shape}, the student made "
                f"{student[index].shape}; make the bundle again with pocketgan deploy"
            )
        difference = engine.astype(np.int16) - student[index]
        row, column = _worst_corner(np.square(difference.astype(np.float64)).sum(axis=2))
        made = {
            "input": source,
            "teacher": None if golden.teacher is None else golden.teacher[index],
            "student, float": student[index],
            f"engine, {face.precision}": engine,
            "truth": None if golden.target is None else golden.target[index],
        }
        pictures = {
            name: _cut(picture, row, column, engine.shape[0])
            for name, picture in made.items()
            if picture is not None
        }
        part = difference[row : row + TILE, column : column + TILE]
        tiles.append(Tile(index, row, column, _psnr(part), pictures, part))
    tiles.sort(key=lambda tile: tile.psnr_db)
    return Worst(tuple(tiles[:TILES]), len(golden.source), runtime)


def amplification(tiles: tuple[Tile, ...]) -> int:
    """By how much to multiply differences so that they are seen: a power of two, the same for all.

    At this factor the largest 0.1 percent of them are white, or nearly so.
    """
    values = np.abs(np.concatenate([tile.difference.ravel() for tile in tiles]))
    large = max(float(np.percentile(values, 99.9)), 1.0)
    return int(2 ** min(max(math.floor(math.log2(255 / large)), 0), 6))


def amplified(tile: Tile, factor: int) -> Pixels:
    """Absolute difference times ``factor``: black where engine and float student are equal."""
    seen: Pixels = np.clip(np.abs(tile.difference) * factor, 0, 255).astype(np.uint8)
    return seen


def data_uri(pixels: Pixels) -> str:
    """A picture that needs no file beside the page.

    Lossless WebP: what a lossy format changes is more than what a good engine does.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _session(bundle: Bundle) -> tuple[Session, str]:
    """The engine on its own runtime if this is its device; else an ONNX engine on this CPU."""
    face = bundle.manifest
    if face.compiled and not available(face.profile):
        return open_session(
            bundle.engine, face.profile, backend=face.backend, precision=face.precision
        ), ""
    if bundle.engine.suffix != ".onnx":
        raise DeviceError(
            f"{bundle.engine.name} runs on {face.profile.name} only, and this machine is not one"
        )
    session = open_session(
        bundle.engine, as_host(face.profile), backend="onnxruntime", precision=face.precision
    )
    return session, "ONNX Runtime on the CPU of a machine that is not the device"


def _worst_corner(error: NDArray[np.float64]) -> tuple[int, int]:
    """Top left corner of the part with the largest sum, through cumulated sums: (H, W)."""
    height, width = error.shape
    tall, wide = min(TILE, height), min(TILE, width)
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = error.cumsum(axis=0).cumsum(axis=1)
    rows, columns = (_places(side, part) for side, part in ((height, tall), (width, wide)))
    top, left = rows[:, None], columns[None, :]
    inside = sums[top + tall, left + wide] - sums[top, left + wide]
    inside -= sums[top + tall, left] - sums[top, left]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(rows[row]), int(columns[column])


def _places(side: int, part: int) -> NDArray[np.intp]:
    """Where a part may begin; flush with the far border as well."""
    return np.unique(np.append(np.arange(0, side - part + 1, STRIDE), side - part))


def _cut(picture: Pixels, row: int, column: int, height: int) -> Pixels:
    """The part of a picture, which may be smaller than the output, as before super-resolution."""
    times = height // picture.shape[0]
    large = picture.repeat(times, axis=0).repeat(times, axis=1)
    return large[row : row + TILE, column : column + TILE]


def _psnr(difference: NDArray[np.int16]) -> float:
    error = float(np.mean(np.square(difference.astype(np.float64))))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
