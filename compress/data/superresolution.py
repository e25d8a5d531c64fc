"""Small images and the large ones they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from compress.data.augment import cut, fit_short_side, turned
from compress.data.cache import PixelCache
from compress.data.dataset import Example, cut_whole
from compress.data.folders import (
    Broken,
    File,
    files_digest,
    match_names,
    open_folder,
    settle,
)
from deploy.imaging import Pixels
from deploy.manifests import Task


@dataclass(frozen=True)
class SuperResolution:
    """High resolution, and low resolution made of it or read from a second folder.

    Attributes:
        scale: How many times as high and wide the target is.
        high: Files of high resolution.
        low: Their partners; None: made by bicubic reduction.
        cache: Where both are kept once decoded.
    """

    task: ClassVar[Task] = "super_resolution"
    scale: int
    high: tuple[File, ...]
    low: tuple[File, ...] | None
    cache: PixelCache

    @property
    def names(self) -> tuple[str, ...]:
        """See `Dataset`: those of the high-resolution files."""
        return tuple(file.path.stem for file in self.high)

    def __len__(self) -> int:
        return len(self.high)

    def crop(self, rng: np.random.Generator, size: int) -> Example:
        """See `Dataset`: ``size`` is the low resolution's; turned and mirrored, never rescaled.

        Where an image is too small, its high resolution is enlarged first (and the low, if given).
        """
        low, high = self._images(int(rng.integers(len(self))), at_least=size)
        top, left = (int(rng.integers(length - size + 1)) for length in low.shape[:2])
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        small, large = (top, left, size), (top * self.scale, left * self.scale, size * self.scale)
        return (
            turned(cut(low, small, small[2]), turns=turns, mirror=mirror),
            turned(cut(high, large, large[2]), turns=turns, mirror=mirror),
        )

    def whole(self, index: int, *, multiple: int) -> Example:
        """See `Dataset`."""
        low, high = self._images(index)
        return cut_whole(low, high, multiple=multiple, name=self.names[index])

    def references(self, count: int | None = None) -> Iterator[Pixels]:
        """See `Dataset`: the high resolution, cut to a multiple of the scale."""
        return (self._read(index, 1)[1] for index in range(len(self))[:count])

    def digest(self) -> str:
        """See `Dataset`."""
        how = f"super-resolution {self.scale} {'bicubic' if self.low is None else 'given'}"
        return files_digest(how, self.high, self.low or ())

    def _images(self, index: int, *, at_least: int = 1) -> tuple[Pixels, ...]:
        low_side = min(self.high[index].height, self.high[index].width) // self.scale
        enlarged = at_least if at_least > low_side else 1
        return self.cache.get((index, enlarged), lambda: self._read(index, enlarged))

    def _read(self, index: int, at_least: int) -> tuple[Pixels, Pixels]:
        high = _enlarged(self.high[index].read(), at_least * self.scale)
        if self.low is None:
            height, width = (length // self.scale for length in high.shape[:2])
            high = high[: height * self.scale, : width * self.scale]
            reduced = Image.fromarray(high).resize((width, height), Image.Resampling.BICUBIC)
            return np.asarray(reduced, dtype=np.uint8), high
        low = _enlarged(self.low[index].read(), at_least)
        height, width = (
            min(small, large // self.scale)
            for small, large in zip(low.shape[:2], high.shape[:2], strict=True)
        )
        return low[:height, :width], high[: height * self.scale, : width * self.scale]


def super_resolution(
    high: Path, low: Path | None, *, scale: int, broken: Broken, cache: PixelCache
) -> SuperResolution:
    """Files of high resolution, with or without partners of low resolution.

    A partner has the same name, or that with the scale behind it: ``0801.png`` and ``0801x4.png``.
    Its size is the high resolution's over the scale, rounded down or up.

    Raises:
        ValueError: As `open_folder`; an image smaller than ``scale``, names without a partner, or
            sizes that do not belong together.
    """

    def refuse_tiny(height: int, width: int) -> str:
        tiny = min(height, width) < scale
        return f"{width} x {height} pixels, too small to be reduced {scale} times" if tiny else ""

    large = open_folder(high, broken, refuse_size=refuse_tiny)
    if low is None:
        return SuperResolution(scale, large.files, None, cache)
    both = match_names(
        large, open_folder(low, broken), rename=lambda name: name.removesuffix(f"x{scale}")
    )
    reasons = {
        ours.path.stem: f"{theirs.width} x {theirs.height} times {scale} is not "
        f"{ours.width} x {ours.height}"
        for ours, theirs in both
        if max(abs(ours.width - theirs.width * scale), abs(ours.height - theirs.height * scale))
        >= scale
    }
    settle(f"{high} and {low}", reasons, broken, total=len(both))
    kept = [pair for pair in both if pair[0].path.stem not in reasons]
    ours, theirs = zip(*kept, strict=True)
    return SuperResolution(scale, ours, theirs, cache)


def _enlarged(pixels: Pixels, short_side: int) -> Pixels:
    return fit_short_side(pixels, short_side) if min(pixels.shape[:2]) < short_side else pixels
