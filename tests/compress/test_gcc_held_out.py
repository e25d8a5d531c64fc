"""Images that are set aside, for gates to learn from and nothing else."""

import numpy as np
import pytest
from PIL import Image

from compress.data.augment import Jitter
from compress.data.cache import PixelCache
from compress.data.damage import Damage
from compress.data.folders import open_folder
from compress.data.held_out import set_aside
from compress.data.pairs import paired_halves
from compress.data.photos import Photos, Restoration
from compress.data.superresolution import super_resolution
from compress.data.unpaired import Unpaired

JITTER = Jitter(mirror=False)
DAMAGE = Damage(blur_px=(0.0, 0.0), noise=(0.0, 0.0), jpeg_quality=(95, 95))


def grey(level, width=64):
    """An image of nearly one level, which says in every crop whose it is."""
    pixels = np.full((64, width, 3), level, dtype=np.uint8)
    pixels[::2] += 1
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        for name, width in (("a", 64), ("b", 64), ("halves", 128)):
            (tmp_path / name).mkdir(exist_ok=True)
            grey(20 * index, width).save(tmp_path / name / f"{index}.png")
    return tmp_path


KINDS = {
    "restoration": lambda folder: Restoration(
        open_folder(folder / "a", "refuse"), PixelCache(), DAMAGE
    ),
    "photos": lambda folder: Photos(open_folder(folder / "a", "refuse"), PixelCache(), JITTER),
    "halves": lambda folder: paired_halves(
        folder / "halves", "left", JITTER, broken="refuse", cache=PixelCache()
    ),
    "unpaired": lambda folder: Unpaired(
        open_folder(folder / "a", "refuse"),
        open_folder(folder / "b", "refuse"),
        JITTER,
        PixelCache(),
    ),
    "upscaling": lambda folder: super_resolution(
        folder / "a", None, scale=2, broken="refuse", cache=PixelCache()
    ),
}


def shown(dataset, which=0):
    """Numbers of the images that crops come from."""
    rng = np.random.default_rng(0)
    crops = [dataset.crop(rng, 16)[which] for _ in range(200)]
    return {round((float(crop.mean()) - 0.5) / 20) for crop in crops}


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_is_in_both_parts(kind, folder):
    rest, aside = set_aside(KINDS[kind](folder), 0.2, cache_mib=1)
    assert len(rest) == 8
    assert len(aside) == 2
    assert rest.names == ("0", "1", "3", "4", "5", "6", "8", "9")
    assert aside.names == ("2", "7")
    assert shown(rest) == {0, 1, 3, 4, 5, 6, 8, 9}
    assert shown(aside) == {2, 7}
    assert {rest.task, aside.task} == {KINDS[kind](folder).task}


def test_both_domains_are_parted(folder):
    rest, aside = set_aside(KINDS["unpaired"](folder), 0.2, cache_mib=1)
    assert shown(aside, which=1) == {2, 7}
    assert not shown(rest, which=1) & {2, 7}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_digests_of_their_own(kind, folder):
    whole = KINDS[kind](folder)
    digests = {part.digest() for part in (whole, *set_aside(whole, 0.2, cache_mib=1))}
    assert len(digests) == 3


def test_one_image_at_least_is_set_aside(folder):
    _, aside = set_aside(KINDS["photos"](folder), 0.001, cache_mib=1)
    assert aside.names == ("5",)


def test_all_images_are_too_many(folder):
    with pytest.raises(ValueError, match=r"0\.99 of 10 training images set aside leaves none"):
        set_aside(KINDS["photos"](folder), 0.99, cache_mib=1)


def test_data_without_a_rule_are_refused():
    with pytest.raises(ValueError, match="no image of object can be set aside"):
        set_aside(object(), 0.1, cache_mib=1)
