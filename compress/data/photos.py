"""Photos alone: spoiled and restored, or shown to a teacher and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compress.data.augment import Jitter, cut, photo_window, turned
from compress.data.cache import PixelCache, kept_image
from compress.data.damage import Damage
from compress.data.dataset import Example, cut_whole
from compress.data.folders import Folder, files_digest
from deploy.imaging import Pixels
from deploy.manifests import Task


@dataclass(frozen=True)
class Restoration:
    """Clean photos of a folder, to be damaged and restored.

    Attributes:
        folder: The photos.
        cache: Where they are kept once decoded.
        damage: Applied after cropping.
    """

    task: ClassVar[Task] = "paired"
    folder: Folder
    cache: PixelCache
    damage: Damage

    @property
    def names(self) -> tuple[str, ...]:
        """See `Dataset`."""
        return self.folder.names

    def __len__(self) -> int:
        return len(self.folder.files)

    def crop(self, rng: np.random.Generator, size: int) -> Example:
        """See `Dataset`: at the photo's scale or up to twofold shrunk, turned, any colours."""
        photo = kept_image(self.cache, self.folder.files[int(rng.integers(len(self)))])
        square = cut(photo, photo_window(rng, photo, size), size)
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        # restoration must keep every colour, not the few that a dozen photos hold
        clean = turned(square[..., rng.permutation(3)], turns=turns, mirror=mirror)
        return self.damage.apply(clean, rng), clean

    def whole(self, index: int, *, multiple: int) -> Example:
        """See `Dataset`; the damage depends on the index alone."""
        photo = kept_image(self.cache, self.folder.files[index])
        clean, _ = cut_whole(photo, None, multiple=multiple, name=self.names[index])
        return self.damage.apply(clean, np.random.default_rng(index)), clean

    def references(self, count: int | None = None) -> Iterator[Pixels]:
        """See `Dataset`: the clean photos."""
        return (file.read() for file in self.folder.files[:count])

    def digest(self) -> str:
        """See `Dataset`."""
        return files_digest(f"restoration {self.damage}", self.folder.files)


@dataclass(frozen=True)
class Photos:
    """Photos without any truth: a teacher says what they should become.

    Attributes:
        folder: The photos.
        cache: Where they are kept once decoded.
        jitter: How squares are cut. With no ``load``: at the photo's scale or up to twofold shrunk.
    """

    task: ClassVar[Task] = "teacher_only"
    folder: Folder
    cache: PixelCache
    jitter: Jitter

    @property
    def names(self) -> tuple[str, ...]:
        """See `Dataset`."""
        return self.folder.names

    def __len__(self) -> int:
        return len(self.folder.files)

    def crop(self, rng: np.random.Generator, size: int) -> Example:
        """See `Dataset`; upright."""
        file = self.folder.files[int(rng.integers(len(self)))]
        if self.jitter.load is not None:
            photo = kept_image(self.cache, file, self.jitter.short_side(size))
            window, mirror = self.jitter.draw(rng, photo, size)
        else:
            photo = kept_image(self.cache, file)
            window = photo_window(rng, photo, size)
            mirror = self.jitter.mirror and bool(rng.integers(2))
        return turned(cut(photo, window, size), mirror=mirror), None

    def whole(self, index: int, *, multiple: int) -> Example:
        """See `Dataset`."""
        photo = kept_image(self.cache, self.folder.files[index], self.jitter.whole)
        return cut_whole(photo, None, multiple=multiple, name=self.names[index])

    def references(self, count: int | None = None) -> Iterator[Pixels]:
        """See `Dataset`: none."""
        return iter(())

    def digest(self) -> str:
        """See `Dataset`."""
        return files_digest(f"photos {self.jitter}", self.folder.files)
