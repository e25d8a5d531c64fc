"""Two domains whose images have nothing to do with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compress.data.augment import Jitter, cut, turned
from compress.data.cache import PixelCache, kept_image
from compress.data.dataset import Example, cut_whole
from compress.data.folders import Folder, files_digest
from deploy.imaging import Pixels
from deploy.manifests import Task


@dataclass(frozen=True)
class Unpaired:
    """Images of domain A, to be translated, and of domain B, what they should look like.

    Attributes:
        sources: Domain A.
        targets: Domain B.
        jitter: How squares are cut, in each domain for itself.
        cache: Where images of both are kept once decoded and resized.
    """

    task: ClassVar[Task] = "unpaired"
    sources: Folder
    targets: Folder
    jitter: Jitter
    cache: PixelCache

    @property
    def names(self) -> tuple[str, ...]:
        """See `Dataset`: those of domain A."""
        return self.sources.names

    def __len__(self) -> int:
        return len(self.sources.files)

    def crop(self, rng: np.random.Generator, size: int) -> Example:
        """See `Dataset`: two squares that are independent of each other."""
        return self._square(self.sources, rng, size), self._square(self.targets, rng, size)

    def whole(self, index: int, *, multiple: int) -> Example:
        """See `Dataset`: no target."""
        photo = kept_image(self.cache, self.sources.files[index], self.jitter.whole)
        return cut_whole(photo, None, multiple=multiple, name=self.names[index])

    def references(self, count: int | None = None) -> Iterator[Pixels]:
        """See `Dataset`: domain B."""
        files = self.targets.files[:count]
        return (kept_image(self.cache, file, self.jitter.whole) for file in files)

    def digest(self) -> str:
        """See `Dataset`."""
        return files_digest(f"unpaired {self.jitter}", self.sources.files, self.targets.files)

    def _square(self, folder: Folder, rng: np.random.Generator, size: int) -> Pixels:
        file = folder.files[int(rng.integers(len(folder.files)))]
        image = kept_image(self.cache, file, self.jitter.short_side(size))
        window, mirror = self.jitter.draw(rng, image, size)
        return turned(cut(image, window, size), mirror=mirror)
