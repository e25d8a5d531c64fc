import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import Damage, batches, paired_folders, photo_restoration
from tests.compress.conftest import write_photos

DAMAGE = Damage(blur_px=(0.5, 1.0), noise=(5.0, 10.0), jpeg_quality=(40, 60))


def test_a_step_gives_the_same_batch_whenever_it_is_asked(tmp_path):
    write_photos(tmp_path / "a", 2)
    at = batches(photo_restoration(tmp_path / "a", DAMAGE), size=64, batch_size=2, seed=3)
    first, again, other = at(5), at(5), at(6)
    assert torch.equal(first.source, again.source)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.source, other.source)
    assert first.source.shape == first.target.shape == (2, 3, 64, 64)
    assert first.source.abs().max() <= 1.0


def test_damage_changes_the_source_and_not_the_truth(tmp_path):
    write_photos(tmp_path / "a", 1)
    pairs = photo_restoration(tmp_path / "a", DAMAGE)
    source, target = pairs.whole(0, multiple=4)
    assert np.array_equal(target, pairs.targets[0])
    error = np.abs(source.astype(int) - target).mean()
    assert 2 < error < 20


def test_held_back_damage_is_the_same_in_every_run(tmp_path):
    write_photos(tmp_path / "a", 2)
    one, two = (photo_restoration(tmp_path / "a", DAMAGE).whole(1, multiple=4) for _ in range(2))
    assert np.array_equal(one[0], two[0])


def test_whole_images_are_cropped_to_a_multiple(tmp_path):
    write_photos(tmp_path / "a", 1, size=(111, 90))
    source, target = photo_restoration(tmp_path / "a", DAMAGE).whole(0, multiple=4)
    assert source.shape == target.shape == (88, 108, 3)


def test_crops_of_pairs_stay_aligned(tmp_path):
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 2)  # the same seed: the same pictures
    pairs = paired_folders(tmp_path / "a", tmp_path / "b")
    for seed in range(20):
        source, target = pairs.crop(np.random.default_rng(seed), 64)
        assert np.array_equal(source, target)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no photo folder .*nowhere; make it, or name"):
        photo_restoration(tmp_path / "nowhere", DAMAGE)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images \(\.jpg, \.jpeg, \.png, \.webp\)"):
        photo_restoration(tmp_path, DAMAGE)


def test_a_text_file_named_jpg_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("dear diary")
    with pytest.raises(ValueError, match=r"notes\.jpg: not a JPEG, PNG, WEBP image \(10 bytes\)"):
        photo_restoration(tmp_path, DAMAGE)


def test_a_truncated_jpeg_is_named(tmp_path):
    path = tmp_path / "half.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half\.jpg: the JPEG image is damaged"):
        photo_restoration(tmp_path, DAMAGE)


def test_pairs_without_a_partner_are_named(tmp_path):
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 1)
    with pytest.raises(ValueError, match="without a partner: 1"):
        paired_folders(tmp_path / "a", tmp_path / "b")


def test_pairs_of_different_sizes_are_named(tmp_path):
    write_photos(tmp_path / "a", 1)
    write_photos(tmp_path / "b", 1, size=(64, 64))
    with pytest.raises(ValueError, match="0: source is 112 x 128, truth is 64 x 64"):
        paired_folders(tmp_path / "a", tmp_path / "b")
