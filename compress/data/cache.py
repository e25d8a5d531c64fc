"""Decoded images, as many as memory is set aside for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from compress.data.augment import fit_short_side
from compress.data.folders import File
from deploy.imaging import Pixels

DEFAULT_MIB = 2048


class PixelCache:
    """Keeps what was decoded; beyond its budget, what was asked for longest ago goes first.

    One for each dataset; threads may share it. What it returns is read-only, and the same whether
    or not it was kept.
    """

    def __init__(self, budget_mib: float = DEFAULT_MIB) -> None:
        """``budget_mib`` is for pixels alone; an image larger than all of it is never kept."""
        self._budget = int(budget_mib * 2**20)
        self._kept: OrderedDict[Hashable, tuple[Pixels, ...]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """What the kept pixels take."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], tuple[Pixels, ...]]) -> tuple[Pixels, ...]:
        """The images of a key, made now unless they were kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        images = make()  # two threads may both make it: cheaper than that one waits for the other
        for image in images:
            image.setflags(write=False)
        size = sum(image.nbytes for image in images)
        with self._lock:
            if key not in self._kept and size <= self._budget:
                self._kept[key] = images
                self._bytes += size
                while self._bytes > self._budget:
                    _, dropped = self._kept.popitem(last=False)
                    self._bytes -= sum(image.nbytes for image in dropped)
        return images


def kept_image(cache: PixelCache, file: File, short_side: int | None = None) -> Pixels:
    """An image as it is, or resized until its shorter side is ``short_side``.

    Raises:
        ImageError: As `File.read`.
    """

    def make() -> tuple[Pixels]:
        pixels = file.read()
        return (pixels if short_side is None else fit_short_side(pixels, short_side),)

    return cache.get((file.path, short_side), make)[0]
