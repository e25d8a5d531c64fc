from __future__ import annotations

import numpy as np
import pytest

from deploy.golden import GoldenPairs
from deploy.imaging import from_model, range_spec, to_model
from deploy.manifests import QualityFloor
from deploy.verify import (
    PSNR_CEILING_DB,
    Closeness,
    EngineError,
    Fidelity,
    check_float,
    closeness,
    needed_db,
    pixel_quality,
    psnr,
    ssim,
    verify,
)
from devices.session import StubSession

FLOOR = QualityFloor(psnr_db=40.0, truth_drop_db=0.5)


@pytest.fixture
def golden(make_photos):
    source = make_photos(2, size=24)
    target = np.clip(from_model(-to_model(source)).astype(int) + 4, 0, 255).astype(np.uint8)
    return GoldenPairs(source, -to_model(source), target, source)


def test_what_an_engine_needs_to_stay_above_the_floor(golden):
    """An engine that is exactly that close loses exactly what the floor allows."""
    needed = needed_db(golden, QualityFloor(psnr_db=10.0, truth_drop_db=0.5))
    student_db = pixel_quality(from_model(golden.student), golden.target).psnr_db
    error = 10 ** (-student_db / 10) + 10 ** (-needed / 10)
    assert student_db + 10 * np.log10(error) == pytest.approx(0.5)


def test_the_floor_to_the_float_student_is_needed_at_least(golden):
    assert needed_db(golden, QualityFloor(psnr_db=90.0, truth_drop_db=0.5)) == 90.0
    blind = GoldenPairs(golden.source, golden.student, None, golden.teacher)
    assert needed_db(blind, QualityFloor(psnr_db=30.0, truth_drop_db=0.5)) == 30.0


def off_by(amount):
    return StubSession(lambda images: -images + np.float32(amount))


def test_psnr_of_a_known_error():
    zeros = np.zeros((3, 4, 4), np.float32)
    assert psnr(zeros + 0.02, zeros, data_range=2.0) == pytest.approx(40.0, abs=1e-4)
    assert psnr(zeros + 25.5, zeros, data_range=255.0) == pytest.approx(20.0)
    assert psnr(zeros, zeros, data_range=2.0) == PSNR_CEILING_DB
    assert psnr(zeros + 1e-7, zeros, data_range=2.0) == PSNR_CEILING_DB


@pytest.mark.parametrize(("data_range", "shape"), [(2.0, (3, 24, 31)), (255.0, (3, 11, 11))])
def test_ssim_and_psnr_agree_with_torchmetrics(data_range, shape):
    image = pytest.importorskip("torchmetrics.functional.image", exc_type=ImportError)
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours = rng.uniform(0, data_range, shape).astype(np.float32)
    theirs = (0.7 * ours + 0.3 * rng.uniform(0, data_range, shape)).astype(np.float32)
    a, b = torch.from_numpy(ours)[None], torch.from_numpy(theirs)[None]
    wanted = image.structural_similarity_index_measure(a, b, data_range=data_range)
    assert ssim(ours, theirs, data_range=data_range) == pytest.approx(float(wanted), abs=2e-5)
    wanted = image.peak_signal_noise_ratio(a, b, data_range=data_range)
    assert psnr(ours, theirs, data_range=data_range) == pytest.approx(float(wanted), abs=1e-3)


def test_ssim_of_an_image_with_itself_and_with_its_negative():
    image = np.random.default_rng(0).uniform(0, 2, (3, 16, 16)).astype(np.float32)
    assert ssim(image, image, data_range=2.0) == pytest.approx(1.0)
    assert ssim(image, 2 - image, data_range=2.0) < -0.5


def test_ssim_to_the_student_is_that_of_pixels(golden):
    """The images of an engine are in [-1, 1], but SSIM is defined for values from 0 up."""
    noisy = StubSession(lambda images: np.clip(-0.8 * images, -1, 1))
    wanted = pixel_quality(from_model(-0.8 * to_model(golden.source)), from_model(golden.student))
    assert verify(noisy, golden).ssim == pytest.approx(wanted.ssim, abs=2e-3)


def test_ssim_of_an_image_smaller_than_its_window():
    tiny = np.zeros((3, 10, 40), np.float32)
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels, got \(10, 40\)"):
        ssim(tiny, tiny, data_range=2.0)


def test_the_student_itself_is_perfect(golden):
    fidelity = verify(off_by(0), golden)
    assert fidelity.psnr_db == PSNR_CEILING_DB
    assert fidelity.ssim == pytest.approx(1.0)
    assert fidelity.largest_error == 0
    assert fidelity.truth_drop_db == 0
    assert fidelity.truth_psnr_db == fidelity.quality.psnr_db
    assert fidelity.passes(FLOOR)
    check_float(fidelity, "onnxruntime fp32")


def test_an_engine_that_is_off(golden):
    fidelity = verify(off_by(-0.02), golden)
    assert fidelity.psnr_db == pytest.approx(40.0, abs=0.01)
    assert fidelity.truth_drop_db == pytest.approx(4.2, abs=1.0)  # 4 levels off become 6 or 7
    message = "the float engine (openvino fp32) differs from torch by 0.02, more than 0.001"
    with pytest.raises(EngineError) as refused:
        check_float(fidelity, "openvino fp32")
    assert message in str(refused.value)
    assert "make the export again with pocketgan compress" in str(refused.value)


def test_without_a_truth_quality_is_to_the_teacher(golden):
    blind = GoldenPairs(golden.source, golden.student, None, from_model(golden.student))
    fidelity = verify(off_by(0), blind)
    assert fidelity.truth_psnr_db is fidelity.truth_drop_db is None
    assert fidelity.quality.psnr_db == PSNR_CEILING_DB
    assert fidelity.passes(FLOOR)


@pytest.mark.parametrize(
    ("psnr_db", "drop", "shortfall"),
    [
        (40.0, 0.5, ""),
        (39.9, 0.0, "39.9 dB to the float student, floor 40"),
        (60.0, 0.51, "loses 0.51 dB to the truth, floor 0.5"),
        (60.0, None, ""),
        (60.0, -1.0, ""),
    ],
)
def test_the_floor(psnr_db, drop, shortfall, golden):
    quality = pixel_quality(golden.source, golden.source)
    fidelity = Fidelity(psnr_db, 1.0, 0.0, quality, truth_drop_db=drop)
    assert fidelity.shortfall(FLOOR) == shortfall
    assert fidelity.passes(FLOOR) == (not shortfall)


def test_images_that_are_not_finite(golden):
    with pytest.raises(EngineError, match="golden image 0 came out with values that are not fin"):
        verify(off_by(np.nan), golden)


def test_images_of_another_shape(golden):
    halved = StubSession(lambda images: images[:, :, ::2, ::2])
    with pytest.raises(EngineError, match=r"came out as \(1, 3, 12, 12\), the student made \(1, 3"):
        verify(halved, golden)


def largest(ours, theirs):
    """Stands in for LPIPS."""
    return np.abs(ours - theirs).max(axis=(1, 2, 3))


def test_lpips_is_asked_of_every_pair(golden):
    fidelity = verify(off_by(-0.02), golden, largest)
    assert fidelity.lpips == pytest.approx(0.02, abs=1e-5)
    assert verify(off_by(-0.02), golden).lpips is None
    shapes = []
    verify(off_by(0), golden, lambda a, b: shapes.append((a.shape, b.shape)) or np.zeros(len(a)))
    assert shapes == [((2, 3, 24, 24), (2, 3, 24, 24))]


def test_lpips_sees_images_not_values_beyond_them(golden):
    """What a student without a tanh makes of white is white when it is saved."""
    far = StubSession(lambda images: 3 * np.sign(-images))
    seen = []
    verify(far, golden, lambda a, b: seen.append(a) or np.zeros(len(a)))
    assert (seen[0].min(), seen[0].max()) == (-1, 1)


@pytest.mark.parametrize(
    ("asked", "lpips", "shortfall"),
    [
        (0.02, 0.02, ""),
        (0.02, 0.0213, "LPIPS 0.0213 to the float student, floor 0.02"),
        (0.02, float("nan"), "LPIPS nan to the float student, floor 0.02"),
        (
            0.02,
            None,
            "LPIPS to the float student is not known, floor 0.02: the export has no lpips.onnx and "
            "the cache no weights; pocketgan evaluate fetches them",
        ),
        (None, 0.9, ""),
        (None, None, ""),
    ],
)
def test_the_floor_of_lpips(asked, lpips, shortfall, golden):
    floor = QualityFloor(psnr_db=40.0, truth_drop_db=0.5, lpips=asked)
    quality = pixel_quality(golden.source, golden.source)
    fidelity = Fidelity(50.0, 1.0, 0.0, quality, truth_drop_db=0.0, lpips=lpips)
    assert fidelity.shortfall(floor) == shortfall
    assert fidelity.passes(floor) == (not shortfall)
    assert Closeness(50.0, 1.0, lpips).shortfall(floor) == shortfall


def test_closeness_is_what_verify_finds(golden):
    fidelity = verify(off_by(-0.02), golden, largest)
    close = closeness(-to_model(golden.source) - np.float32(0.02), golden.student, largest)
    assert close == Closeness(fidelity.psnr_db, fidelity.ssim, fidelity.lpips)
    assert close.shortfall(QualityFloor(psnr_db=41.0, truth_drop_db=0.5)).startswith("40.0 dB to")


def test_values_that_are_not_finite_have_no_closeness(golden):
    with pytest.raises(EngineError, match="values that are not finite; they have no quality"):
        closeness(golden.student + np.float32(np.inf), golden.student, None)


def test_figures_mean_the_same_however_a_student_sees_pixels(golden):
    """A student that sees 0 to 255 has errors 127.5 times as large, of the same images."""
    levels = range_spec(0.0, 255.0)
    seen = GoldenPairs(
        golden.source, (golden.student + 1) * np.float32(127.5), golden.target, golden.teacher
    )
    engine = StubSession(lambda images: 255 - images - np.float32(0.02 * 127.5))
    one, other = verify(engine, seen, largest, spec=levels), verify(off_by(-0.02), golden, largest)
    for name in ("psnr_db", "ssim", "largest_error", "truth_drop_db", "lpips"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-3), name
    assert one.quality == other.quality
    floor = QualityFloor(psnr_db=10.0, truth_drop_db=0.5)
    assert needed_db(seen, floor, spec=levels) == pytest.approx(needed_db(golden, floor))
