"""How squares are cut from images of any size: as the papers do, or at a photo's own scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from deploy.imaging import Pixels

Window = tuple[int, int, int]
"""Top, left and side of a square, in pixels."""


@dataclass(frozen=True)
class Jitter:
    """The augmentation of pix2pix and CycleGAN: enlarge a little, cut, mirror.

    Attributes:
        load: Length of the shorter side that squares are cut from, in pixels; None: in proportion
            to the square, the papers' 286 for 256. A square larger than that is cut from an image
            enlarged to fit it.
        mirror: Whether half of the squares are mirrored.
        whole: Length of the shorter side that whole images are resized to; None: as they are.
    """

    load: int | None = None
    mirror: bool = True
    whole: int | None = None

    def short_side(self, size: int) -> int:
        """Length of the shorter side before a square of ``size`` is cut."""
        return max(size, round(size * 286 / 256) if self.load is None else self.load)

    def draw(self, rng: np.random.Generator, pixels: Pixels, size: int) -> tuple[Window, bool]:
        """Where a square is cut from an image that `fit_short_side` gave, and if it is mirrored."""
        window = _place(rng, pixels, size)
        return window, self.mirror and bool(rng.integers(2))


def fit_short_side(pixels: Pixels, length: int) -> Pixels:
    """Resize, bicubic, until the shorter side is ``length``."""
    height, width = pixels.shape[:2]
    scale = length / min(height, width)
    size = round(width * scale), round(height * scale)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def photo_window(rng: np.random.Generator, pixels: Pixels, size: int) -> Window:
    """A square of a photo: half of the time ``size``, else up to twice as large."""
    side = min(*pixels.shape[:2], int(size * rng.uniform(1.0, 2.0)) if rng.random() < 0.5 else size)
    return _place(rng, pixels, side)


def cut(pixels: Pixels, window: Window, size: int) -> Pixels:
    """A square of an image, resized to (size, size, 3) where it is larger or smaller."""
    top, left, side = window
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


def turned(square: Pixels, *, turns: int = 0, mirror: bool = False) -> Pixels:
    """Quarter turns to the left, then mirrored; contiguous."""
    square = np.rot90(square, turns)
    return np.ascontiguousarray(square[:, ::-1] if mirror else square)


def _place(rng: np.random.Generator, pixels: Pixels, side: int) -> Window:
    height, width = pixels.shape[:2]
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side
