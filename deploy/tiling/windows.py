"""Where to cut an image: windows that overlap by a halo, and the cores that are kept of them."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.tiling.spec import Halo


@dataclass(frozen=True)
class Window:
    """One axis of a tile, in pixels of the image.

    Attributes:
        start: First pixel that the engine is given.
        stop: Behind the last of them.
        core_start: First pixel that is kept of what it makes.
        core_stop: Behind the last of those.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int


@dataclass(frozen=True)
class Tile:
    """A window of rows and one of columns."""

    rows: Window
    columns: Window


def cut(length: int, size: int, before: int, after: int) -> list[Window]:
    """Windows of ``size`` that cover an axis; the cores touch and do not overlap.

    The first and the last keep the border of the image, so that what a generator does at a border
    happens only there. All have the same size; the last one overlaps its neighbour as it must.

    Args:
        length: Of the axis; like the others a multiple of the alignment.
        size: Of a window, larger than the halo unless it is the whole axis.
        before: Halo at inner edges, towards 0.
        after: The other one.
    """
    if size >= length:
        return [Window(0, length, 0, length)]
    windows: list[Window] = []
    kept = 0
    while kept < length:
        start = min(max(kept - before, 0), length - size)
        stop = start + size
        core_stop = length if stop == length else stop - after
        windows.append(Window(start, stop, kept, core_stop))
        kept = core_stop
    return windows


def tiles(
    height: int, width: int, halo: Halo, alignment: tuple[int, int], limit: int
) -> list[Tile] | None:
    """The tiles that cost the fewest pixels of all whose windows hold at most ``limit``.

    All windows of one image have one shape, so that an engine plans its memory once.

    Returns:
        Tiles row by row; None where no window of ``limit`` pixels is larger than the halo.
    """
    best: tuple[int, int, int] | None = None
    for down in range(1, height // alignment[0] + 1):
        rows = _size(height, down, halo.top, halo.bottom, alignment[0])
        if rows is None:
            break
        # with fewer than this many beside each other even windows without a halo are too large
        least = max(1, -(-width * rows // limit))
        for across in range(least, width // alignment[1] + 1):
            columns = _size(width, across, halo.left, halo.right, alignment[1])
            if columns is None:
                break
            if rows * columns <= limit:
                cost = rows * columns * down * across
                if best is None or cost < best[0]:
                    best = (cost, rows, columns)
                break  # narrower ones only repeat more of the halo
    if best is None:
        return None
    _, rows, columns = best
    return [
        Tile(row, column)
        for row in cut(height, rows, halo.top, halo.bottom)
        for column in cut(width, columns, halo.left, halo.right)
    ]


def _size(length: int, count: int, before: int, after: int, unit: int) -> int | None:
    """The smallest size of which ``count`` windows cover an axis; None where all is halo."""
    if count == 1:
        return length
    overlap = before + after
    size = -(-(length + (count - 1) * overlap) // (count * unit)) * unit
    return size if size > overlap else None
