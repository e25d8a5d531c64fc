"""What training, export and evaluation ask of images; each kind of data answers in its own file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np

from deploy.imaging import Pixels
from deploy.manifests import Task

Split = Literal["train", "test"]

Example = tuple[Pixels, Pixels | None]
"""An image to translate, (H, W, 3), and what it should look like, or None."""


class Dataset(Protocol):
    """The images of one split."""

    @property
    def task(self) -> Task:
        """What a generator learns from them."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the sources, without suffix."""
        ...

    def __len__(self) -> int:
        """How many sources there are."""
        ...

    def crop(self, rng: np.random.Generator, size: int) -> Example:
        """A random square of a random image; everything that is random is drawn from ``rng``.

        The source is (size, size, 3). The target belongs to it, (size, size, 3); for
        super-resolution it is ``scale`` times as large, for unpaired data it is a square of an
        independent random image of the other domain, for photos None.

        An image that is smaller than ``size`` is enlarged to fit.
        """
        ...

    def whole(self, index: int, *, multiple: int) -> Example:
        """One image at full size, the source cut at the right and bottom to multiples.

        The same in every run. The target is cut in the same way, ``scale`` times as large for
        super-resolution, None where there is no truth for this source.

        Raises:
            ValueError: The image is smaller than ``multiple``.
        """
        ...

    def references(self, count: int | None = None) -> Iterator[Pixels]:
        """Real images of what generators paint: the first ``count`` or all, whole, read one by one.

        For photos there are none.
        """
        ...

    def digest(self) -> str:
        """SHA-256 over the bytes of every file, the names, and how crops are made of them."""
        ...


def cut_whole(source: Pixels, target: Pixels | None, *, multiple: int, name: str) -> Example:
    """Cut a source to multiples, and its target, which may be larger by a whole factor, with it.

    Raises:
        ValueError: The source is smaller than ``multiple``.
    """
    height, width = (n - n % multiple for n in source.shape[:2])
    if not height or not width:
        raise ValueError(
            f"{name} is {source.shape[1]} x {source.shape[0]}: whole images are cut to multiples "
            f"of {multiple}; take it out of the folder, or enlarge it"
        )
    if target is None:
        return source[:height, :width], None
    scale = target.shape[0] // source.shape[0]
    return source[:height, :width], target[: height * scale, : width * scale]
