from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from deploy import lpips as module
from deploy.graph import operators
from deploy.imaging import read_image, to_model
from deploy.lpips import (
    Lpips,
    cached_weights,
    find_lpips,
    lpips_of,
    open_lpips,
    read_weights,
    tensors_digest,
)
from deploy.lpips_graph import CONVOLUTIONS, build_lpips


def random_weights(seed=0):
    """Weights of the right shapes; for tests of what is computed, never for a figure."""
    rng = np.random.default_rng(seed)
    weights = {}
    for index, (wide_in, wide_out, kernel, *_) in enumerate(CONVOLUTIONS):
        shape = (wide_out, wide_in, kernel, kernel)
        scale = (2 / (wide_in * kernel * kernel)) ** 0.5
        weights[f"conv{index}.weight"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        weights[f"conv{index}.bias"] = (0.1 * rng.standard_normal(wide_out)).astype(np.float32)
        weights[f"lin{index}.weight"] = rng.random((1, wide_out, 1, 1), np.float32) / wide_out
    return weights


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def lpips(weights):
    return lpips_of(weights)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and where the weights would be in it."""
    monkeypatch.setenv("POCKETGAN_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights" / "lpips-alexnet.safetensors"


def test_the_published_distances(shared_data):
    folder = shared_data / "lpips_alex"
    real = lpips_of(read_weights(folder / "lpips_alex.safetensors"))
    reference, *others = (
        to_model(read_image(folder / f"ex_{name}.png")) for name in ("ref", "p0", "p1")
    )
    found = real(np.concatenate(others), np.concatenate([reference, reference]))
    assert found.tolist() == pytest.approx([0.722, 0.138], abs=5e-4)


def test_the_known_digest_is_that_of_the_shared_copy(shared_data):
    copy = load_file(shared_data / "lpips_alex" / "lpips_alex.safetensors")
    assert tensors_digest(copy) == module.TENSORS_SHA256


def test_an_image_is_no_distance_from_itself(lpips, make_photos):
    a, b = to_model(make_photos(2, size=48))[:, None]
    assert lpips(a, a).tolist() == [0.0]
    apart = float(lpips(a, b)[0])
    assert apart > 0
    assert lpips(b, a).tolist() == pytest.approx([apart])
    both = lpips(np.concatenate([a, b]), np.concatenate([b, b]))
    assert both.dtype == np.float32
    assert both.tolist() == pytest.approx([apart, 0.0])
    assert lpips(a[:0], b[:0]).shape == (0,)


def test_flat_images_have_a_distance(lpips):
    """A map that is all zeros has no direction, and must not become a division by zero."""
    black = np.full((1, 3, 32, 40), -1, np.float32)
    assert np.isfinite(lpips(black, -black)).all()
    dead = {name: np.zeros_like(array) for name, array in random_weights().items()}
    assert lpips_of(dead)(black, -black).tolist() == [0.0]


def test_the_graph_takes_batches_of_any_size(lpips, make_photos):
    a, b = (to_model(make_photos(3, seed=seed, size=40)) for seed in (1, 2))
    (together,) = lpips.session.run(None, {"images": a, "references": b})
    assert together.shape == (3,)
    assert together.tolist() == pytest.approx(lpips(a, b).tolist(), rel=1e-4)


def test_threads_change_nothing_that_matters(lpips, weights, make_photos):
    a, b = (to_model(make_photos(1, seed=seed, size=64)) for seed in (1, 2))
    assert lpips_of(weights, threads=2)(a, b) == pytest.approx(lpips(a, b), rel=1e-5)


def test_the_same_weights_give_the_same_bytes(weights):
    one, other = (build_lpips(given) for given in (weights, dict(reversed(weights.items()))))
    data = one.SerializeToString(deterministic=True)
    assert data == other.SerializeToString(deterministic=True)
    assert len(data) < 10 * 2**20
    assert [entry.version for entry in one.opset_import] == [13]
    assert operators(one)["Conv"] == 3 * 5
    onnx.checker.check_model(one, full_check=True)
    another = build_lpips(random_weights(seed=1))
    assert data != another.SerializeToString(deterministic=True)


def test_weights_that_do_not_fit_are_named(weights):
    missing = {name: array for name, array in weights.items() if name != "lin3.weight"}
    with pytest.raises(ValueError, match=r"needs lin3.weight of shape \(1, 256, 1, 1\), and there"):
        build_lpips(missing)
    wrong = weights | {"conv1.bias": np.zeros(64, np.float32)}
    with pytest.raises(ValueError, match=r"needs conv1.bias of shape \(192,\), and it is \(64,\)"):
        build_lpips(wrong)


def test_what_it_cannot_compare(lpips):
    def zeros(*size):
        return np.zeros((1, 3, *size), np.float32)

    with pytest.raises(ValueError, match="images of one size have a distance, not "):
        lpips(zeros(64, 64), zeros(64, 32))
    with pytest.raises(ValueError, match="at least 31 x 31 pixels, got 64 x 30"):
        lpips(zeros(30, 64), zeros(30, 64))
    assert lpips(zeros(31, 31), zeros(31, 31)).tolist() == [0.0]


def test_a_file_that_is_not_lpips(tmp_path, make_student):
    path = tmp_path / "lpips.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"lpips.onnx is not an ONNX model of LPIPS .* make the"):
        open_lpips(path)
    path.write_bytes(make_student().SerializeToString())
    with pytest.raises(ValueError, match=r"lpips.onnx is not LPIPS: it takes \['image'\], not"):
        open_lpips(path)


def test_an_export_brings_its_own(tmp_path, cache, weights, lpips, make_photos):
    path = tmp_path / "lpips.onnx"
    path.write_bytes(build_lpips(weights).SerializeToString(deterministic=True))
    cache.write_bytes(b"never looked at")
    found = find_lpips(path)
    assert isinstance(found, Lpips)
    a, b = (to_model(make_photos(1, seed=seed, size=40)) for seed in (1, 2))
    assert found(a, b) == pytest.approx(lpips(a, b))


def test_without_one_the_cache_is_asked(cache, weights, monkeypatch, caplog):
    assert cached_weights() is None
    assert find_lpips(None) is None
    save_file(weights, cache)
    assert cached_weights() == cache
    assert find_lpips(None) is None  # other weights than the published ones give other figures
    assert f"going on without LPIPS: {cache} does not hold the weights of LPIPS" in caplog.text
    monkeypatch.setattr(module, "TENSORS_SHA256", tensors_digest(weights))
    assert isinstance(find_lpips(None), Lpips)


def test_damaged_weights_are_refused(cache, weights, monkeypatch):
    monkeypatch.setattr(module, "TENSORS_SHA256", tensors_digest(weights))
    save_file(weights, cache)
    whole = cache.read_bytes()
    assert set(read_weights(cache)) == set(weights)
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (whole[:-100], bytes(flipped), b""):
        cache.write_bytes(damaged)
        with pytest.raises(ValueError, match="delete it; pocketgan evaluate fetches it again"):
            read_weights(cache)


def test_a_head_weighs_its_channels(weights, make_photos):
    """Twice the weight of every channel is twice the distance: the heads are linear."""
    twice = {
        name: array * np.float32(2 if name.startswith("lin") else 1)
        for name, array in weights.items()
    }
    a, b = (to_model(make_photos(1, seed=seed, size=40)) for seed in (1, 2))
    assert lpips_of(twice)(a, b) == pytest.approx(2 * lpips_of(weights)(a, b), rel=1e-5)
    stored = {tensor.name: tensor for tensor in build_lpips(twice).graph.initializer}
    head = numpy_helper.to_array(stored["lin0.weight"])
    np.testing.assert_array_equal(head, twice["lin0.weight"])
