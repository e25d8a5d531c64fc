"""Tiles that make the same image as the whole, on real engines and on stubs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.artifacts import Bundle
from deploy.imaging import ImageTooLargeError
from deploy.sealing import seal
from deploy.tiling.prepare import write_tiling
from deploy.tiling.sessions import open_segment
from deploy.tiling.spec import FeatureMap, Halo, Tiling
from devices.profile import load_profile
from devices.sealed import BundleError
from devices.session import DeviceError, StubSession, open_session
from serving.tiling import TiledSession, tiled_session
from tests.deploy import layers
from tests.deploy.drawing import draw, images, weight, whole

PROFILE = load_profile("cpu").model_copy(update={"threads": 1})
BACKENDS = ("onnxruntime", "openvino")


def smooth(height: int, width: int) -> np.ndarray:
    """Different in every corner, so that statistics of a part are not those of the whole."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.sin(rows / 17) * np.cos(columns / 23) + columns / width - rows / height
    noise = images(height, width)
    return (0.4 * wave[None, None] + 0.1 * noise).astype(np.float32)


@pytest.fixture
def tile(tmp_path):
    """A tiled session of a graph, the engine itself, and what was planned."""

    def make(model, *, backend="onnxruntime", whole_pixels=2500, map_bytes=2**26, **more):
        file = tmp_path / "engine.onnx"
        file.write_bytes(model.SerializeToString())
        tiling = write_tiling(model, tmp_path, size_multiple=4)
        engine = open_session(file, PROFILE, backend=backend, precision="fp32")
        tiled = TiledSession(
            engine,
            tiling,
            open_segment=lambda name: open_segment(
                (tmp_path / name).read_bytes(), PROFILE, backend=backend, precision="fp32"
            ),
            whole_pixels=whole_pixels,
            map_bytes=map_bytes,
            **more,
        )
        return tiled, engine, tiling

    return make


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(100, 132), (48, 400), (204, 56)])
def test_tiles_without_norms_make_the_whole(tile, backend, size):
    tiled, engine, tiling = tile(layers.student(norm=False), backend=backend)
    assert tiling.halo is not None
    image = smooth(*size)
    assert np.abs(tiled.run(image) - engine.run(image)).max() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiles_with_instance_norm_make_the_whole(tile, backend):
    tiled, engine, tiling = tile(layers.student(), backend=backend)
    assert len(tiling.segments) == 6
    image = smooth(120, 148)
    assert np.abs(tiled.run(image) - engine.run(image)).max() < 1e-4
    # which statistics of each tile alone would not
    apart = engine.run(np.ascontiguousarray(image[:, :, :60])) - engine.run(image)[:, :, :60]
    assert np.abs(apart).max() > 0.1


def test_a_batch_and_a_second_image(tile):
    tiled, engine, _ = tile(layers.student())
    for seed in (0, 1):
        batch = np.concatenate([smooth(80, 80) + seed, -smooth(80, 80)])
        expected = np.concatenate([engine.run(image[None]) for image in batch])
        assert np.abs(tiled.run(batch) - expected).max() < 1e-4


def test_a_norm_on_the_image_itself(tile):
    model = draw(
        "a = InstanceNormalization(image, s, t) b = Conv<pads = [1, 1, 1, 1]>(a, w) out = Tanh(b)",
        {"w": weight(3, 3, 3, 3), "s": np.ones(3, np.float32), "t": np.zeros(3, np.float32)},
    )
    tiled, engine, tiling = tile(model)
    assert [segment.sources[0].map for segment in tiling.segments] == ["image"]
    image = smooth(80, 96)
    assert np.abs(tiled.run(image) - engine.run(image)).max() < 1e-5


def test_a_larger_translation(tile):
    model = draw(
        'a = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode ='
        ' "floor">(image, , s) b = Pad<mode = "reflect">(a, p) out = Conv(b, w)',
        {
            "w": weight(3, 3, 3, 3),
            "s": np.array([1, 1, 2, 2], np.float32),
            "p": whole(0, 0, 1, 1, 0, 0, 1, 1),
        },
    )
    tiled, engine, _ = tile(model, whole_pixels=400)
    image = smooth(40, 60)
    assert tiled.run(image).shape == (1, 3, 80, 120)
    assert np.abs(tiled.run(image) - engine.run(image)).max() < 1e-6


def test_maps_beyond_the_budget_go_to_the_folder_and_leave_nothing_there(tile, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    tiled, engine, _ = tile(layers.student(), map_bytes=1000, map_folder=folder)
    image = smooth(80, 80)
    assert np.abs(tiled.run(image) - engine.run(image)).max() < 1e-4
    assert list(folder.iterdir()) == []


def test_up_to_the_limit_nothing_is_cut(tile):
    tiled, engine, _ = tile(layers.student(), whole_pixels=48 * 48)
    image = smooth(48, 48)
    assert np.array_equal(tiled.run(image), engine.run(image))


def test_tiles_are_told_and_can_be_stopped(tile):
    tiled, _, _ = tile(layers.student(norm=False), whole_pixels=4000)
    told: list[tuple[int, int]] = []
    tiled.run(smooth(100, 100), lambda done, count: told.append((done, count)))
    assert told == [(at, len(told)) for at in range(len(told))]
    assert len(told) > 3

    def stop(done, count):
        if done == 2:
            raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        tiled.run(smooth(100, 100), stop)


def test_segments_are_loaded_when_they_are_needed_and_given_back(tile):
    opened: list[str] = []
    tiled, _, tiling = tile(layers.student())
    load = tiled._open_segment
    tiled._open_segment = lambda name: opened.append(name) or load(name)
    tiled.run(smooth(48, 48))
    assert opened == []
    tiled.run(smooth(80, 80))
    tiled.run(smooth(80, 80))
    assert opened == [segment.file for segment in tiling.segments]
    tiled.trim()
    tiled.run(smooth(80, 80))
    assert len(opened) == 12


PLAIN = Tiling(
    alignment=(4, 4),
    image="image",
    translation=FeatureMap(name="out", channels=3, rows=(1, 1), columns=(1, 1)),
    halo=Halo(top=20, bottom=20, left=20, right=20),
)


@pytest.mark.parametrize(
    ("tiling", "pixels", "said"),
    [
        (None, 2500, "its bundle does not say how"),
        (Tiling(image="image", translation=None, halo=None, obstacles=("Softmax 'a' looks",)),
         2500, r"not run on tiles \(Softmax 'a' looks\); .* POCKETGAN_WHOLE_PIXELS higher"),
        (PLAIN, 1500, "a tile of so many would be all halo"),
        (PLAIN.model_copy(update={"alignment": (8, 16)}), 2500, r"no multiple of 8 x 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_tiled_is_refused_before_it_runs(tiling, pixels, said):
    tiled = TiledSession(
        StubSession(), tiling, open_segment=open, whole_pixels=pixels, map_bytes=2**20
    )
    tiled.check(36, 36)
    with pytest.raises(ImageTooLargeError, match=said):
        tiled.check(100, 104)
    with pytest.raises(ImageTooLargeError, match=said):
        tiled.run(np.zeros((1, 3, 100, 104), np.float32))


def test_maps_beyond_the_budget_are_refused_with_what_to_set(tile):
    tiled, _, tiling = tile(layers.student(), map_bytes=2**20)
    needed = tiling.map_bytes(200, 200) / 2**20
    assert 3 < needed < 4
    with pytest.raises(ImageTooLargeError, match=r"take 4 MiB; the limit is 1 MiB.*MAP_MEMORY_MIB"):
        tiled.check(200, 200)
    tiled.check(80, 80)


def test_a_tile_of_another_size_is_an_error():
    tiled = TiledSession(
        StubSession(lambda images: images[:, :, 1:]),
        PLAIN,
        open_segment=open,
        whole_pixels=2500,
        map_bytes=1,
    )
    with pytest.raises(RuntimeError, match="a tile of out came out as"):
        tiled.run(np.zeros((1, 3, 100, 100), np.float32))


def test_tensorrt_has_no_segments():
    with pytest.raises(DeviceError, match="tensorrt runs no segments"):
        open_segment(b"", PROFILE, backend="tensorrt", precision="fp16")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_segment_that_is_none(backend):
    with pytest.raises(DeviceError, match=f"{backend} .* cannot read a segment"):
        open_segment(b"no segment", PROFILE, backend=backend, precision="fp32")


@pytest.fixture
def bundle_of(tmp_path, manifest):
    """Seal a bundle with what `deploy` writes for tiles; ``spoil`` changes the folder before."""

    def make(model, spoil=lambda folder: None, hide=()) -> Bundle:
        def fill(folder: Path):
            (folder / "engine.onnx").write_bytes(model.SerializeToString())
            (folder / "golden.npz").write_bytes(b"not read here")
            write_tiling(model, folder, size_multiple=4)
            spoil(folder)
            return lambda sha256: manifest.model_copy(
                update={"sha256": {k: v for k, v in sha256.items() if k not in hide}}
            )

        seal(tmp_path / "bundle", "manifest.json", fill)
        return Bundle.read(tmp_path / "bundle")

    return make


def wrapped(bundle: Bundle) -> TiledSession:
    face = bundle.manifest
    session = open_session(
        bundle.engine, face.profile, backend=face.backend, precision=face.precision
    )
    return tiled_session(session, bundle, whole_pixels=2500, map_bytes=2**26, map_folder=None)


def test_a_bundle_is_read_at_once_and_may_be_gone_later(bundle_of):
    bundle = bundle_of(layers.student())
    tiled = wrapped(bundle)
    image = smooth(80, 80)
    expected = open_session(bundle.engine, PROFILE, backend="onnxruntime", precision="fp32").run(
        image
    )
    for path in bundle.path.iterdir():
        path.unlink()
    assert np.abs(tiled.run(image) - expected).max() < 1e-4


def test_a_bundle_from_before_tiles(bundle_of):
    old = bundle_of(layers.student(), lambda folder: (folder / "tiling.json").unlink())
    with pytest.raises(ImageTooLargeError, match="its bundle does not say how"):
        wrapped(old).check(80, 80)


def test_a_damaged_description_is_refused(bundle_of):
    bundle = bundle_of(layers.student(), lambda folder: (folder / "tiling.json").write_text("{}"))
    with pytest.raises(BundleError, match=r"tiling\.json"):
        wrapped(bundle)


def test_a_segment_nobody_checked_is_refused(bundle_of):
    bundle = bundle_of(layers.student(), hide=("segment-02.onnx",))
    with pytest.raises(BundleError, match=r"no digest for 'segment-02\.onnx'"):
        wrapped(bundle)
