"""Pairs of source and truth: two folders of the same names, or two halves of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from compress.data.augment import Jitter, cut, fit_short_side, turned
from compress.data.cache import PixelCache
from compress.data.dataset import Example, cut_whole
from compress.data.folders import Broken, File, files_digest, match_names, open_folder, settle
from deploy.imaging import Pixels
from deploy.manifests import Task

Pair = tuple[Pixels, Pixels]
"""Source and truth of one image, (H, W, 3) each."""


@dataclass(frozen=True)
class Pairs:
    """Source and truth of the same size; both are cut and mirrored alike.

    Attributes:
        names: File names of the sources without suffix.
        read: Decodes the pair of an index.
        jitter: How squares are cut.
        cache: Where pairs are kept once decoded and resized.
        fingerprint: What `digest` returns.
    """

    task: ClassVar[Task] = "paired"
    names: tuple[str, ...]
    read: Callable[[int], Pair]
    jitter: Jitter
    cache: PixelCache
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def crop(self, rng: np.random.Generator, size: int) -> Example:
        """See `Dataset`."""
        source, target = self._pair(int(rng.integers(len(self))), self.jitter.short_side(size))
        window, mirror = self.jitter.draw(rng, source, size)
        return (
            turned(cut(source, window, size), mirror=mirror),
            turned(cut(target, window, size), mirror=mirror),
        )

    def whole(self, index: int, *, multiple: int) -> Example:
        """See `Dataset`."""
        source, target = self._pair(index, self.jitter.whole)
        return cut_whole(source, target, multiple=multiple, name=self.names[index])

    def references(self, count: int | None = None) -> Iterator[Pixels]:
        """See `Dataset`: the truths."""
        return (self._pair(index, self.jitter.whole)[1] for index in range(len(self))[:count])

    def digest(self) -> str:
        """See `Dataset`."""
        return self.fingerprint

    def _pair(self, index: int, short_side: int | None = None) -> tuple[Pixels, ...]:
        def make() -> tuple[Pixels, ...]:
            pair = self.read(index)
            if short_side is None:
                return pair
            return tuple(fit_short_side(pixels, short_side) for pixels in pair)

        return self.cache.get((index, short_side), make)


def paired_folders(
    sources: Path, targets: Path, jitter: Jitter, *, broken: Broken, cache: PixelCache
) -> Pairs:
    """Pairs of files with the same name in two folders.

    Raises:
        ValueError: As `open_folder`; names without a partner; sizes that differ and are not to be
            skipped.
    """
    both = match_names(open_folder(sources, broken), open_folder(targets, broken))
    reasons = {
        source.path.stem: f"source is {source.width} x {source.height}, truth is "
        f"{target.width} x {target.height}"
        for source, target in both
        if (source.width, source.height) != (target.width, target.height)
    }
    settle(f"{sources} and {targets}", reasons, broken, total=len(both))
    kept = [pair for pair in both if pair[0].path.stem not in reasons]

    def read(index: int) -> Pair:
        source, target = kept[index]
        return source.read(), target.read()

    how = files_digest(f"pairs {jitter}", *zip(*kept, strict=True))
    return Pairs(tuple(source.path.stem for source, _ in kept), read, jitter, cache, how)


def paired_halves(
    folder: Path,
    source: Literal["left", "right"],
    jitter: Jitter,
    *,
    broken: Broken,
    cache: PixelCache,
) -> Pairs:
    """Files that hold source and truth side by side, as pix2pix packs them.

    Raises:
        ValueError: As `open_folder`; a file of odd width is broken, too.
    """

    def refuse_odd(height: int, width: int) -> str:
        return f"{width} pixels wide, and two halves are even" if width % 2 else ""

    opened = open_folder(folder, broken, refuse_size=refuse_odd)

    def read(index: int) -> Pair:
        left, right = _halves(opened.files[index])
        return (left, right) if source == "left" else (right, left)

    how = files_digest(f"halves {source} {jitter}", opened.files)
    return Pairs(opened.names, read, jitter, cache, how)


def _halves(file: File) -> Pair:
    left, right = np.split(file.read(), 2, axis=1)
    # copies: a kept half must not hold on to the whole
    return left.copy(), right.copy()
