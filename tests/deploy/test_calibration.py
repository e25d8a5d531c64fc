from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deploy.calibration import (
    LOUD,
    STRUCTURE,
    calibration_digest,
    check_calibration,
    describe_calibration,
    structure,
)


def flat(images):
    images[4] = 200
    return images


def twice(images):
    images[6] = images[1]
    return images


def noisy(images):
    images[5] = np.random.default_rng(3).integers(0, 256, images[5].shape)
    return images


def quiet_noise(images):
    return np.random.default_rng(3).normal(128, 30, images.shape).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flat, r"calibration image 4 is flat \(levels 200 to 200\)"),
        (twice, "calibration images 1 and 6 are the same; choose other"),
        (lambda images: images[:7], "calibration has 7 images; it takes 8"),
        (lambda images: images // 4, r"calibration covers levels 0 to 6\d of 0 to 255, fewer"),
        (lambda images: images / np.float32(255), r"calibration is float32 \(8, 64, 64, 3\)"),
        (lambda images: images[..., 0], r"calibration is uint8 \(8, 64, 64\), not uint8"),
        (noisy, r"calibration image 5 is random noise \(neighbours correlate by -?0.0\d.*1 of 8"),
        (quiet_noise, "image 0 is random noise .* 8 of 8 images are such"),
    ],
)
def test_a_calibration_set_that_would_do_harm(change, message, make_photos):
    with pytest.raises(ValueError, match=message):
        check_calibration(change(make_photos(8, size=64)))


def test_noise_on_a_picture_is_no_noise(make_photos):
    """A restorer's calibration set is photos with noise added, a crop of plain sky among them."""
    images = make_photos(16, size=96).astype(np.float64)
    images[2] = 180  # sky
    added = np.random.default_rng(0).normal(0, 24, images.shape)
    set_ = np.clip(images + added, 0, 255).astype(np.uint8)
    assert structure(set_[2]) < STRUCTURE
    assert set_[2].std() < LOUD
    check_calibration(set_)


def test_structure_of_noise_and_of_pictures(make_photos):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (20, 128, 128, 3), dtype=np.uint8)
    assert max(structure(image) for image in noise) < STRUCTURE
    assert min(structure(image) for image in make_photos(20, size=128)) > 0.5
    gentle = np.full((64, 64, 3), 90, np.uint8)
    assert structure(gentle) == 1.0


def test_what_is_doubtful_is_said_and_does_not_stop(make_photos):
    images = make_photos(100, size=64)
    assert check_calibration(images) == ()
    assert check_calibration(images[:60]) == ("60 images; 100 are advised",)
    no_blue = images.copy()
    no_blue[..., 2] //= 8
    assert check_calibration(no_blue) == ("blue covers levels 0 to 31 only",)


def test_near_duplicates_are_named(make_photos):
    images = make_photos(100, size=64)
    burst = images.copy()
    burst[7] = np.clip(images[3].astype(int) + 2, 0, 255)
    assert check_calibration(burst) == ("images 3 and 7 are nearly the same",)
    for index in (8, 9):
        burst[index] = np.clip(images[3].astype(int) + index - 5, 0, 255)
    (said,) = check_calibration(burst)
    assert said == "images 3 and 7, 3 and 8, 7 and 8 and 3 other pairs are nearly the same"


def test_the_description_goes_into_the_evidence(make_photos):
    images = make_photos(9, size=64)
    described = describe_calibration(images)
    assert described.images == 9
    assert described.sha256 == calibration_digest(images.copy())
    assert described.warnings == ("9 images; 100 are advised",)


def test_the_digest_tells_order_shape_and_every_pixel(make_photos):
    images = make_photos(8)
    changed = images.copy()
    changed[3, 5, 6, 1] ^= 1
    others = (images[::-1], changed, images.reshape(8, 16, 64, 3), images[:7])
    digests = {calibration_digest(one) for one in (images, *others)}
    assert len(digests) == 5


@pytest.mark.slow
def test_real_photos_with_noise_and_label_maps_pass(shared_data):
    """Some of what the threshold was chosen on."""

    def read(folder, left, width):
        files = sorted((shared_data / folder).iterdir())[:16]
        return np.stack(
            [np.asarray(Image.open(f).convert("RGB"))[:, left : left + width] for f in files]
        )

    rng = np.random.default_rng(0)
    for images in (
        read("facades/val", 256, 256),
        read("facades/val", 0, 256),
        read("horse2zebra/testA", 0, 256),
    ):
        noisy = np.clip(images + rng.normal(0, 24, images.shape), 0, 255).astype(np.uint8)
        assert min(structure(image) for image in noisy) > 2 * STRUCTURE
        check_calibration(images)
        check_calibration(noisy)
