import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from compress.data.sampling import to_tensor
from compress.measures import pixels as of_pixels
from compress.measures.extractors import (
    INCEPTION_2015,
    CachedFeatures,
    Inception2015,
    inception,
)
from compress.measures.images import open_folder
from compress.measures.lpips import lpips_of
from compress.measures.measure import MEASURES, measure
from compress.measures.report import Figure, Report, parse_measures
from compress.measures.statistics import Statistics, frechet_distance, kernel_distance
from compress.pretrained import PretrainedError, cache_folder
from deploy.imaging import read_image
from tests.compress.test_perceptual import random_weights


class Tiny:
    """Deterministic features that nobody would take for Inception's: means of a 2 x 2 grid."""

    name = "tiny-grid"
    protocol = "means of a 2 x 2 grid"
    digest = "0123456789abcdef"

    def __init__(self):
        self.seen = 0

    def features(self, pixels):
        self.seen += 1
        h, w = pixels.shape[0] // 2, pixels.shape[1] // 2
        cells = [pixels[y : y + h, x : x + w].mean(axis=(0, 1)) for y in (0, h) for x in (0, w)]
        return np.concatenate(cells).astype(np.float32) / 255


class FakeInception(Tiny):
    """What stands in for the 2015 network where its name matters and its features do not."""

    name = INCEPTION_2015


def photos(count, *, size=(40, 48), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def lpips():
    weights = random_weights("alexnet")
    for index, width in enumerate((64, 192, 384, 256, 256)):
        weights[f"lin{index}.weight"] = torch.full((1, width, 1, 1), 0.1)
    return lpips_of("alexnet", weights)


def normal(count, width, seed):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("count", [5, 100])  # fewer than dimensions, and more
def test_equal_sets_are_at_no_distance(count):
    statistics = Statistics.of(normal(count, 16, 0))
    assert frechet_distance(statistics, statistics) == pytest.approx(0, abs=1e-6)


def test_diagonal_gaussians_have_the_distance_of_the_formula():
    rng = np.random.default_rng(0)
    means, deviations = rng.standard_normal((2, 7)), rng.uniform(0.1, 2.0, (2, 7))
    a, b = (Statistics(m, np.diag(d)) for m, d in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 50), (8, 50), (8, 9)])
def test_the_distance_is_that_of_the_covariances(n, m):
    """The textbook way: eigenvalues of the product of the covariances."""
    a, b = normal(n, 12, 1), 0.5 + 2 * normal(m, 12, 2)
    covariances = [np.cov(x.astype(np.float64), rowvar=False) for x in (a, b)]
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None))
    difference = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    expected = difference @ difference + sum(map(np.trace, covariances)) - 2 * roots.sum()
    found = frechet_distance(Statistics.of(a), Statistics.of(b))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_kernel_distance_is_the_unbiased_one():
    a, b = normal(6, 4, 1), 1 + normal(5, 4, 2)

    def kernel(x, y):
        return (float(x.astype(np.float64) @ y.astype(np.float64)) / 4 + 1) ** 3

    within = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])
        for x in (a, b)
    ]
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_blocks_of_the_kernel_matrix_add_up(monkeypatch):
    a, b = normal(10, 4, 1), normal(7, 4, 2)
    whole = kernel_distance(a, b)
    monkeypatch.setattr("compress.measures.statistics.BLOCK", 3)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_one_image_is_no_set():
    with pytest.raises(ValueError, match="a covariance takes at least 2 images, got 1"):
        Statistics.of(normal(1, 4, 0))
    with pytest.raises(ValueError, match="at least 2 images a side, got 1 and 3"):
        kernel_distance(normal(1, 4, 0), normal(3, 4, 0))


def test_features_are_remembered_by_content_and_extractor(tmp_path):
    image, other = photos(2)
    tiny = Tiny()
    cached = CachedFeatures(tiny, tmp_path)
    first = cached.features(image)
    again = CachedFeatures(tiny, tmp_path).features(image.copy())
    np.testing.assert_array_equal(first, again)
    assert tiny.seen == 1
    cached.features(other)
    cached.features(image.reshape(48, 40, 3))  # the same bytes in another shape
    assert tiny.seen == 3
    another = Tiny()
    another.digest = "fedcba9876543210"
    CachedFeatures(another, tmp_path).features(image)
    assert another.seen == 1
    assert all(path.suffix == ".npy" for path in tmp_path.rglob("*") if path.is_file())


def test_features_that_were_cut_short_are_computed_again(tmp_path):
    (image,) = photos(1)
    cached = CachedFeatures(Tiny(), tmp_path)
    whole = cached.features(image)
    path = cached.path(image)
    path.write_bytes(path.read_bytes()[:-8])
    np.testing.assert_array_equal(cached.features(image), whole)
    assert cached.extractor.seen == 2


def test_inception_sees_a_resized_image_in_its_range(monkeypatch):
    fed = []

    class Network:
        def __call__(self, images):
            fed.append(images)
            return torch.zeros(1, 2048)

    extractor = Inception2015()
    monkeypatch.setitem(vars(extractor), "_network", Network())
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 255
    assert extractor.features(image).shape == (2048,)
    assert fed[0].shape == (1, 3, 299, 299)
    assert fed[0][..., 0].unique().item() == -1
    torch.testing.assert_close(fed[0][..., -1], torch.ones(1, 3, 299))

    # without antialiasing every third pixel is looked at and the two between are not
    image = np.zeros((897, 897, 3), np.uint8)
    image[1::3, 1::3] = 255
    extractor.features(image)
    torch.testing.assert_close(fed[1], torch.ones(1, 3, 299, 299), atol=1e-3, rtol=0)


def test_lpips_of_an_image_with_itself_is_nothing(lpips):
    a, b = (to_tensor(p) for p in photos(2))
    assert lpips(a, a).tolist() == [0.0]
    assert lpips(a, b).item() > 0
    torch.testing.assert_close(
        lpips(torch.cat([a, b]), torch.cat([b, b])),
        lpips(a, b).new_tensor([lpips(a, b).item(), 0.0]),
    )


def test_lpips_is_a_loss_too(lpips):
    a, b = (to_tensor(p) for p in photos(2))
    a[:, :, 5:30, 5:30] = 0
    a.requires_grad_()
    lpips(a, b).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().sum() > 0


def test_lpips_says_what_it_cannot_compare(lpips):
    with pytest.raises(ValueError, match="images of one size have a distance"):
        lpips(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 32))
    with pytest.raises(ValueError, match="at least 31 x 31 pixels, got 64 x 30"):
        lpips(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    lpips(torch.zeros(1, 3, 31, 31), torch.zeros(1, 3, 31, 31))


def test_lpips_gives_the_published_distances(shared_data):
    folder = shared_data / "lpips_alex"
    real = lpips_of("alexnet", load_file(folder / "lpips_alex.safetensors"))
    reference, p0, p1 = (
        to_tensor(read_image(folder / f"ex_{name}.png")) for name in ("ref", "p0", "p1")
    )
    assert real(reference, p0).item() == pytest.approx(0.722, abs=1e-3)
    assert real(reference, p1).item() == pytest.approx(0.138, abs=1e-3)


def test_equal_images_have_the_best_figures():
    (image,) = photos(1)
    assert of_pixels.psnr(image, image) == 100.0
    assert of_pixels.ssim(image, image) == pytest.approx(1.0)
    assert of_pixels.psnr_y(image, image, border=4) == 100.0
    assert of_pixels.ssim_y(image, image, border=4) == pytest.approx(1.0)


def test_psnr_is_that_of_the_formula():
    image = np.full((16, 16, 3), 100, np.uint8)
    expected = 10 * np.log10(255**2 / 4**2)
    assert of_pixels.psnr(image, image + np.uint8(4)) == pytest.approx(expected, abs=1e-4)


def test_luma_is_that_of_video():
    white, black = np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)
    assert of_pixels.luma(white).item() == pytest.approx(235)
    assert of_pixels.luma(black).item() == pytest.approx(16)
    green = np.array([[[0, 255, 0]]], np.uint8)
    assert of_pixels.luma(green).item() == pytest.approx(16 + 128.553)


def test_the_border_does_not_count():
    image, other = photos(1)[0], photos(1)[0].copy()
    other[:4] = 255 - other[:4]
    assert of_pixels.psnr_y(image, other, border=4) == 100.0
    assert of_pixels.psnr_y(image, other, border=3) < 40
    with pytest.raises(ValueError, match="nothing of 48 x 40 pixels is left within a border of 20"):
        of_pixels.psnr_y(image, other, border=20)


def test_pixels_of_two_sizes_are_not_compared():
    a, b = photos(1)[0], photos(1, size=(40, 40))[0]
    with pytest.raises(ValueError, match="of 48 x 40 has a reference of 40 x 40 pixels"):
        of_pixels.psnr(a, b)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 10 x 40"):
        of_pixels.ssim(a[:, :10], a[:, :10])


def test_bicubic_on_set5_is_as_published(shared_data):
    """28.42 dB and 0.8104 (ESRGAN's and others' tables) with another library's bicubic."""
    folder = shared_data / "sr_set5" / "image_SRF_4"
    pairs = []
    for path in sorted(folder.glob("*_HR.png")):
        high = read_image(path)
        low = Image.fromarray(read_image(path.with_name(path.name.replace("HR", "LR"))))
        size = high.shape[1::-1]
        pairs.append((np.asarray(low.resize(size, Image.Resampling.BICUBIC)), high))
    assert len(pairs) == 5
    psnr = np.mean([of_pixels.psnr_y(a, b, border=4) for a, b in pairs])
    ssim = np.mean([of_pixels.ssim_y(a, b, border=4) for a, b in pairs])
    assert psnr == pytest.approx(28.42, abs=0.05)
    assert ssim == pytest.approx(0.8104, abs=0.002)


def test_pairs_are_measured_in_every_way(lpips):
    images, references = photos(3), photos(3, seed=1)
    report = measure(
        iter(images), iter(references), unpaired=None, extractor=FakeInception(), lpips=lpips
    )
    assert tuple(f.measure for f in report.figures) == MEASURES
    assert report.left_out == {}
    assert all((f.images, f.references) == (3, 3) for f in report.figures)
    assert report.value("psnr") == pytest.approx(
        np.mean([of_pixels.psnr(a, b) for a, b in zip(images, references, strict=True)])
    )
    by_name = {f.measure: f for f in report.figures}
    assert by_name["fid"].extractor == INCEPTION_2015
    assert by_name["lpips"].extractor == "LPIPS v0.1, alexnet"
    assert by_name["psnr"].extractor is None
    assert by_name["psnr"].unit == "dB"
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_sets_that_do_not_pair_leave_out_what_takes_pairs():
    report = measure(photos(3), photos(5, seed=1), unpaired="cats are dogs", extractor=Tiny())
    assert [f.measure for f in report.figures] == ["frechet", "kernel"]
    assert [(f.images, f.references) for f in report.figures] == [(3, 5)] * 2
    assert report.left_out == dict.fromkeys(
        ("lpips", "psnr", "ssim"), "for pairs only, and cats are dogs"
    )
    with pytest.raises(ValueError, match="no psnr: for pairs only, and cats are dogs"):
        report.value("psnr")


def test_what_was_asked_for_and_cannot_be_is_an_error():
    with pytest.raises(ValueError, match="psnr cannot be measured: for pairs only, and no"):
        measure(photos(2), photos(2), ("psnr",), unpaired="no")
    with pytest.raises(ValueError, match="kernel cannot be measured: it takes 2 images a side"):
        measure(photos(1), photos(1), ("kernel",), unpaired="no", extractor=Tiny())
    with pytest.raises(ValueError, match="there are more of the one than of the other"):
        measure(photos(2), photos(3), ("psnr",), unpaired=None)
    with pytest.raises(ValueError, match="nothing to measure: 0 images, 2 references"):
        measure([], photos(2), ("kernel",), unpaired="no", extractor=Tiny())


def test_a_pair_of_two_sizes_leaves_the_rest_measured(lpips):
    images = photos(2)
    references = [images[0], photos(1, size=(40, 40))[0]]
    report = measure(images, references, unpaired=None, extractor=Tiny(), lpips=lpips)
    assert [f.measure for f in report.figures] == ["frechet", "kernel"]
    assert report.left_out["psnr"] == (
        "pair 2: an image of 48 x 40 has a reference of 40 x 40 pixels"
    )


def test_luma_and_its_border_are_stated():
    report = measure(photos(2), photos(2, seed=1), ("psnr_y", "ssim_y"), unpaired=None, border=4)
    assert [f.measure for f in report.figures] == ["psnr_y", "ssim_y"]
    assert "border of 4 px cut" in report.figures[0].protocol


def test_no_network_is_looked_for_where_none_is_needed(monkeypatch):
    def fetch(weights):
        raise PretrainedError("no network")

    monkeypatch.setattr("compress.pretrained.fetch", fetch)
    report = measure(photos(2), photos(2), ("psnr", "ssim"), unpaired=None)
    assert report.value("ssim") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("extractor", "wrong", "right"),
    [(Tiny(), "fid", "frechet"), (Tiny(), "kid", "kernel"), (FakeInception(), "kernel", "kid")],
)
def test_a_distance_is_called_by_its_extractor(extractor, wrong, right):
    with pytest.raises(ValueError, match=rf"{wrong} is not the name .* ask for {right}"):
        measure(photos(2), photos(2), (wrong,), unpaired="no", extractor=extractor)


def test_no_report_calls_another_extractors_distance_fid():
    figure = {"value": 1.0, "images": 2, "references": 2, "protocol": "p"}
    with pytest.raises(ValidationError, match="fid is only on the features of inception-2015"):
        Figure(measure="fid", extractor="tiny-grid", **figure)
    with pytest.raises(ValidationError, match="kid is only on the features of inception-2015"):
        Figure(measure="kid", **figure)
    assert Figure(measure="frechet", extractor="tiny-grid", **figure).value == 1.0


def test_measures_are_parsed_by_name():
    assert parse_measures("fid, psnr_y") == ("fid", "psnr_y")
    with pytest.raises(ValueError, match="no measure 'psrn'; there are: fid, kid"):
        parse_measures("fid,psrn")


@pytest.mark.slow
def test_horses_and_zebras_are_as_far_apart_as_known(shared_data):
    """The reference point of ../shared/data/README.md; from the user's cache alone."""
    sets = [open_folder(shared_data / "horse2zebra" / name) for name in ("testA", "testB")]
    extractor = inception()
    if not all(extractor.path(pixels).is_file() for folder in sets for pixels in folder):
        pytest.skip(
            f"needs the features of 260 images in {cache_folder()}: run pocketgan evaluate "
            "../shared/data/horse2zebra/testA --reference ../shared/data/horse2zebra/testB"
        )
    report = measure(*sets, unpaired="horses are not zebras", extractor=extractor)
    assert report.value("fid") == pytest.approx(236.7, abs=0.5)
    assert report.value("kid") == pytest.approx(0.202, abs=0.002)
