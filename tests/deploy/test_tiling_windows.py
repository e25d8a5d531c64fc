"""Windows cover an image, keep its borders, and leave a halo everywhere else."""

import itertools

import pytest

from deploy.tiling.spec import Halo
from deploy.tiling.windows import Tile, Window, cut, tiles

HALO = Halo(top=4, bottom=8, left=8, right=0)


@pytest.mark.parametrize("length", [40, 64, 100, 128, 400])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (4, 8), (8, 0), (12, 12)])
def test_cores_cover_an_axis_once_with_their_halo(length, before, after):
    windows = cut(length, 36, before, after)
    assert windows[0].core_start == 0
    assert windows[-1].core_stop == length
    for one, following in itertools.pairwise(windows):
        assert one.core_stop == following.core_start
    for window in windows:
        assert window.stop - window.start == 36
        assert window.start % 4 == 0
        assert window.core_start < window.core_stop
        assert window.start == 0 or window.core_start - window.start >= before
        assert window.stop == length or window.stop - window.core_stop >= after


def test_what_fits_is_one_window():
    assert cut(40, 40, 4, 4) == [Window(0, 40, 0, 40)]
    axis = Window(0, 40, 0, 40)
    assert tiles(40, 40, HALO, (4, 4), 1600) == [Tile(axis, axis)]


@pytest.mark.parametrize("limit", [400, 1000, 4096, 20_000])
def test_tiles_have_one_shape_within_the_limit_and_cover_the_image_once(limit):
    seen = set()
    shapes = set()
    for tile in tiles(160, 240, HALO, (4, 8), limit):
        rows, columns = tile.rows, tile.columns
        shapes.add((rows.stop - rows.start, columns.stop - columns.start))
        core = {
            (row, column)
            for row in range(rows.core_start, rows.core_stop)
            for column in range(columns.core_start, columns.core_stop)
        }
        assert not core & seen
        seen |= core
    assert len(seen) == 160 * 240
    ((height, width),) = shapes
    assert height * width <= limit


def test_large_windows_repeat_little():
    found = tiles(3000, 4000, Halo(top=84, bottom=84, left=84, right=84), (4, 4), 2048 * 2048)
    shape = found[0]
    pixels = (shape.rows.stop - shape.rows.start) * (shape.columns.stop - shape.columns.start)
    assert pixels * len(found) < 1.12 * 3000 * 4000


def test_where_all_would_be_halo_there_are_none():
    around = Halo(top=20, bottom=20, left=20, right=20)
    assert tiles(400, 400, around, (4, 4), 40 * 40) is None
    assert tiles(400, 400, around, (4, 4), 44 * 44) is not None
