import logging

import numpy as np
import pytest
from PIL import Image

from compress.data.augment import Jitter
from compress.data.cache import PixelCache
from compress.data.damage import Damage
from compress.data.folders import open_folder
from compress.data.pairs import paired_folders, paired_halves
from compress.data.photos import Photos, Restoration
from compress.data.superresolution import super_resolution
from compress.data.unpaired import Unpaired
from tests.compress.conftest import write_photos

DAMAGE = Damage(blur_px=(0.5, 1.0), noise=(5.0, 10.0), jpeg_quality=(40, 60))
STRONGER = Damage(blur_px=(0.5, 1.0), noise=(5.0, 20.0), jpeg_quality=(40, 60))
PLAIN = Jitter(mirror=False)


def restoration(folder):
    return Restoration(open_folder(folder, "refuse"), PixelCache(), DAMAGE)


def photos(folder, jitter=PLAIN):
    return Photos(open_folder(folder, "refuse"), PixelCache(), jitter)


def pairs(folder, broken="refuse", jitter=PLAIN):
    return paired_folders(folder / "a", folder / "b", jitter, broken=broken, cache=PixelCache())


def halves(folder, source="left", broken="refuse"):
    return paired_halves(folder, source, PLAIN, broken=broken, cache=PixelCache())


def unpaired(folder, jitter=PLAIN, broken="refuse"):
    a, b = open_folder(folder / "a", broken), open_folder(folder / "b", broken)
    return Unpaired(a, b, jitter, PixelCache())


def enlarging(folder, scale=2, low=None, broken="refuse"):
    return super_resolution(folder, low, scale=scale, broken=broken, cache=PixelCache())


def ramp(height, width):
    """Red says how far down, green how far right, in steps of two levels."""
    down, right = np.mgrid[:height, :width]
    return np.stack([2 * down, 2 * right, np.zeros_like(down)], -1).clip(0, 255).astype(np.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# restoration


def test_damage_changes_the_source_and_not_the_truth(tmp_path):
    write_photos(tmp_path / "a", 1)
    data = restoration(tmp_path / "a")
    source, target = data.whole(0, multiple=4)
    (clean,) = data.references()
    assert np.array_equal(target, clean)
    error = np.abs(source.astype(int) - target).mean()
    assert 2 < error < 20


def test_held_back_damage_is_the_same_in_every_run(tmp_path):
    write_photos(tmp_path / "a", 2)
    one, two = (restoration(tmp_path / "a").whole(1, multiple=4) for _ in range(2))
    assert np.array_equal(one[0], two[0])


def test_whole_images_are_cropped_to_a_multiple(tmp_path):
    write_photos(tmp_path / "a", 1, size=(111, 90))
    source, target = restoration(tmp_path / "a").whole(0, multiple=4)
    assert source.shape == target.shape == (88, 108, 3)


# pairs


def test_crops_of_pairs_stay_aligned(tmp_path):
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 2)  # the same seed: the same pictures
    data = pairs(tmp_path, jitter=Jitter(load=80))
    mirrored = set()
    for seed in range(20):
        source, target = data.crop(np.random.default_rng(seed), 64)
        assert source.shape == (64, 64, 3)
        assert np.array_equal(source, target)
        mirrored.add(source.tobytes())
    assert len(mirrored) == 20


def test_jittered_crops_are_never_turned(tmp_path):
    save(ramp(96, 96), tmp_path / "a" / "0.png")
    save(ramp(96, 96), tmp_path / "b" / "0.png")
    data = pairs(tmp_path, jitter=Jitter(mirror=True))
    rising = []
    for seed in range(20):
        source, _ = data.crop(np.random.default_rng(seed), 64)
        red, green = source[..., 0].astype(int), source[..., 1].astype(int)
        assert red[-1, 0] > red[0, 0] + 90
        rising.append(green[0, -1] > green[0, 0])
    assert any(rising)
    assert not all(rising)


def test_without_mirroring_all_crops_look_the_same_way(tmp_path):
    save(ramp(96, 96), tmp_path / "0.png")
    data = photos(tmp_path, Jitter(load=70, mirror=False))
    for seed in range(20):
        square, _ = data.crop(np.random.default_rng(seed), 64)
        assert int(square[0, -1, 1]) > int(square[0, 0, 1]) + 90


def test_load_is_the_papers_share_of_the_crop_unless_it_is_given():
    assert [Jitter().short_side(size) for size in (256, 128, 64)] == [286, 143, 72]
    assert Jitter(load=140).short_side(128) == 140
    assert Jitter(load=140).short_side(256) == 256  # calibration crops may be larger


@pytest.mark.parametrize(("half", "first"), [("left", 0), ("right", 40)])
def test_a_file_of_two_halves_is_a_pair(tmp_path, half, first):
    whole = ramp(50, 80)
    save(whole, tmp_path / "0.png")
    source, target = halves(tmp_path, half).whole(0, multiple=1)
    assert np.array_equal(source, whole[:, first : first + 40])
    assert np.array_equal(target, whole[:, 40 - first : 80 - first])


def test_pairs_without_a_partner_are_named(tmp_path):
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 1)
    with pytest.raises(ValueError, match="without a partner: 1"):
        pairs(tmp_path)


def test_names_that_occur_twice_are_named(tmp_path):
    write_photos(tmp_path / "a", 1)
    write_photos(tmp_path / "b", 1)
    save(ramp(8, 8), tmp_path / "a" / "0.jpg")
    with pytest.raises(ValueError, match=r"a: 0\.jpg and 0\.png have the same name; rename one"):
        pairs(tmp_path)


def test_all_pairs_of_different_sizes_are_named_or_skipped(tmp_path, caplog):
    write_photos(tmp_path / "a", 3)
    write_photos(tmp_path / "b", 3)
    save(ramp(64, 60), tmp_path / "b" / "0.png")
    save(ramp(64, 64), tmp_path / "b" / "2.png")
    said = "0: source is 112 x 128, truth is 60 x 64; 2: source is 112 x 128, truth is 64 x 64"
    with pytest.raises(ValueError, match=f"2 of 3 files are of no use: {said}; take them out, or"):
        pairs(tmp_path)
    with caplog.at_level(logging.WARNING):
        data = pairs(tmp_path, "skip")
    assert data.names == ("1",)
    assert f"{said}; skipped" in caplog.text
    assert np.array_equal(*data.whole(0, multiple=1))


# unpaired


def test_the_two_domains_are_cropped_independently(tmp_path):
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 3, seed=5)
    data = unpaired(tmp_path)
    draws = [data.crop(np.random.default_rng(seed), 64) for seed in range(60)]
    assert {source.shape for source, _ in draws} == {(64, 64, 3)}
    files = [*open_folder(tmp_path / "a", "refuse").files]
    files += [*open_folder(tmp_path / "b", "refuse").files]
    means = [file.read().mean((0, 1)) for file in files]

    def nearest(square, among):
        return min(among, key=lambda i: float(np.abs(square.mean((0, 1)) - means[i]).sum()))

    seen = {(nearest(a, range(2)), nearest(b, range(2, 5))) for a, b in draws}
    assert len(seen) == 6  # every image of one met every image of the other
    same = PixelCache()
    twins = Unpaired(data.sources, data.sources, PLAIN, same)
    assert any(
        not np.array_equal(*twins.crop(np.random.default_rng(seed), 64)) for seed in range(5)
    )


def test_unpaired_sources_have_no_truth_and_references_are_the_other_domain(tmp_path):
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 3, seed=5)
    data = unpaired(tmp_path)
    source, target = data.whole(1, multiple=16)
    assert target is None
    assert source.shape == (128, 112, 3)
    with Image.open(tmp_path / "b" / "0.png") as first:
        assert np.array_equal(next(data.references()), np.asarray(first))
    assert (len(data), len(list(data.references())), len(list(data.references(2)))) == (2, 3, 2)


# super-resolution


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_low_resolution_is_a_bicubic_reduction_and_crops_of_both_belong_together(tmp_path, scale):
    write_photos(tmp_path / "a", 1, size=(211, 203))
    data = enlarging(tmp_path / "a", scale)
    low, high = data.whole(0, multiple=1)
    assert low.shape == (203 // scale, 211 // scale, 3)
    assert high.shape == (203 // scale * scale, 211 // scale * scale, 3)
    reduced = Image.fromarray(high).resize(low.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(reduced), low)

    size = 16
    for seed in range(8):
        small, large = data.crop(np.random.default_rng(seed), size)
        assert (small.shape, large.shape) == ((size, size, 3), (size * scale, size * scale, 3))
        again = Image.fromarray(large).resize((size, size), Image.Resampling.BICUBIC)
        inner = slice(3, -3)  # at the border the reduction of the whole image saw further
        assert np.abs(np.asarray(again).astype(int) - small)[inner, inner].max() <= 1


def test_low_resolution_may_be_given_under_a_name_with_the_scale(tmp_path):
    save(ramp(41, 60), tmp_path / "high" / "0801.png")
    given = np.full((11, 15, 3), 7, dtype=np.uint8)  # 41 / 4, rounded up
    save(given, tmp_path / "low" / "0801x4.png")
    low, high = enlarging(tmp_path / "high", 4, tmp_path / "low").whole(0, multiple=1)
    assert np.array_equal(low, given[:10])
    assert np.array_equal(high, ramp(41, 60)[:40])


def test_low_resolution_of_another_scale_is_named(tmp_path):
    save(ramp(40, 60), tmp_path / "high" / "0.png")
    save(ramp(20, 30), tmp_path / "low" / "0.png")
    with pytest.raises(ValueError, match="0: 30 x 20 times 4 is not 60 x 40"):
        enlarging(tmp_path / "high", 4, tmp_path / "low")


def test_an_image_that_is_too_small_to_reduce_is_broken(tmp_path):
    save(ramp(3, 60), tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: 60 x 3 pixels, too small to be reduced 4 times"):
        enlarging(tmp_path, 4)


# photos


def test_photos_have_no_truth(tmp_path):
    write_photos(tmp_path / "a", 2)
    data = photos(tmp_path / "a")
    square, target = data.crop(np.random.default_rng(0), 64)
    assert square.shape == (64, 64, 3)
    assert target is None
    assert data.whole(0, multiple=4)[1] is None
    assert list(data.references()) == []


# any size


@pytest.mark.parametrize(("height", "width"), [(5, 9), (33, 201), (97, 64), (301, 300)])
def test_crops_of_any_image_have_the_size_that_is_asked_for(tmp_path, height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    save(noise, tmp_path / "a" / "0.png")
    save(noise, tmp_path / "b" / "0.png")
    save(np.hstack([noise, noise]), tmp_path / "h" / "0.png")
    sets = [
        restoration(tmp_path / "a"),
        photos(tmp_path / "a"),
        photos(tmp_path / "a", Jitter(load=90)),
        pairs(tmp_path),
        halves(tmp_path / "h"),
        unpaired(tmp_path),
    ]
    for data in sets:
        for seed in range(4):
            source, target = data.crop(np.random.default_rng(seed), 64)
            assert source.shape == (64, 64, 3)
            assert target is None or target.shape == (64, 64, 3)
    for scale in (2, 3, 4):
        source, target = enlarging(tmp_path / "a", scale).crop(np.random.default_rng(0), 64)
        assert (source.shape, target.shape) == ((64, 64, 3), (64 * scale, 64 * scale, 3))
    save(np.repeat(np.repeat(noise, 2, 0), 2, 1), tmp_path / "large" / "0.png")
    given = enlarging(tmp_path / "large", 2, tmp_path / "a")
    source, target = given.crop(np.random.default_rng(0), 64)
    assert (source.shape, target.shape) == ((64, 64, 3), (128, 128, 3))
    reduced = Image.fromarray(target).resize((64, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(reduced).astype(int) - source).mean() < 20  # 60 and more elsewhere


def test_a_grey_jpeg_becomes_three_equal_channels(tmp_path):
    grey = ramp(80, 90)[..., 0]
    Image.fromarray(grey).save(tmp_path / "g.jpg")
    square, _ = photos(tmp_path).crop(np.random.default_rng(0), 64)
    assert np.array_equal(square[..., 0], square[..., 1])
    assert np.array_equal(square[..., 0], square[..., 2])


def test_a_whole_image_smaller_than_the_multiple_is_named(tmp_path):
    save(ramp(3, 60), tmp_path / "0.png")
    with pytest.raises(ValueError, match="0 is 60 x 3: whole images are cut to multiples of 4"):
        photos(tmp_path).whole(0, multiple=4)


# digests


def test_the_digest_changes_with_bytes_names_and_options(tmp_path):
    for name in ("a", "b"):
        write_photos(tmp_path / name, 2)
    clean = [
        photos(tmp_path / "a"),
        photos(tmp_path / "a", Jitter(load=70)),
        photos(tmp_path / "a", Jitter(mirror=True)),
        restoration(tmp_path / "a"),
        Restoration(open_folder(tmp_path / "a", "refuse"), PixelCache(), STRONGER),
        pairs(tmp_path),
        pairs(tmp_path, jitter=Jitter(load=70)),
        unpaired(tmp_path),
        halves(tmp_path / "a", "left"),
        halves(tmp_path / "a", "right"),
        enlarging(tmp_path / "a", 2),
        enlarging(tmp_path / "a", 4),
    ]
    digests = [data.digest() for data in clean]
    assert len(set(digests)) == len(digests)
    assert photos(tmp_path / "b").digest() == digests[0]  # the folder may move
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "2.png")
    renamed = photos(tmp_path / "b").digest()
    assert renamed != digests[0]
    data = (tmp_path / "b" / "2.png").read_bytes()
    (tmp_path / "b" / "2.png").write_bytes(data + b"\0")
    assert photos(tmp_path / "b").digest() not in (renamed, digests[0])


@pytest.mark.parametrize("kind", [pairs, unpaired])
def test_whole_images_are_resized_where_the_data_say_so(tmp_path, kind):
    for folder in ("a", "b"):
        write_photos(tmp_path / folder, 1, size=(120, 80))
    data = kind(tmp_path, jitter=Jitter(whole=40))
    source, _ = data.whole(0, multiple=4)
    assert source.shape == (40, 60, 3)
    assert next(data.references()).shape == (40, 60, 3)


def test_whole_photos_are_resized_where_the_data_say_so(tmp_path):
    write_photos(tmp_path / "a", 1, size=(120, 80))
    data = photos(tmp_path / "a", Jitter(whole=40))
    assert data.whole(0, multiple=4)[0].shape == (40, 60, 3)
    assert data.digest() != photos(tmp_path / "a", Jitter()).digest()
