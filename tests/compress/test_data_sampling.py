import gc
import hashlib
import importlib.metadata
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data.augment import Jitter
from compress.data.cache import PixelCache
from compress.data.folders import open_folder
from compress.data.photos import Photos
from compress.data.sampling import batches
from compress.recipe import CompressRecipe, TrainRecipe, load_recipe
from compress.schema.data import (
    DamageRanges,
    HalvesData,
    PairedData,
    PhotosData,
    RestorationData,
    SuperResolutionData,
    UnpairedData,
)
from tests.compress.conftest import write_photos
from tests.conftest import ROOT

TASKS = {
    "restoration": "paired",
    "paired": "paired",
    "halves": "paired",
    "unpaired": "unpaired",
    "super_resolution": "super_resolution",
    "photos": "teacher_only",
}


def schemas(folder):
    """One of every kind, on the same files."""
    one = {"train": folder / "a", "test": folder / "b"}
    two = {
        "train_source": folder / "a",
        "train_target": folder / "b",
        "test_source": folder / "a",
        "test_target": folder / "b",
    }
    damage = DamageRanges(blur_px=(0.5, 1.0), noise=(5.0, 10.0), jpeg_quality=(40, 60))
    return [
        RestorationData(kind="restoration", damage=damage, **one),
        PairedData(kind="paired", **two),
        HalvesData(kind="halves", source="left", **one),
        UnpairedData(kind="unpaired", **two),
        SuperResolutionData(kind="super_resolution", scale=2, **one),
        PhotosData(kind="photos", **one),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_photos(folder / "a", 3, size=(90, 80))
    write_photos(folder / "b", 3, size=(90, 80), seed=4)
    return folder


@pytest.fixture(params=TASKS)
def schema(request, folder):
    return {schema.kind: schema for schema in schemas(folder)}[request.param]


def same(one, two):
    if (one.target is None) != (two.target is None):
        return False
    targets = one.target is None or torch.equal(one.target, two.target)
    return torch.equal(one.source, two.source) and targets


def test_a_kind_of_data_is_a_task(schema):
    data = schema.read("train")
    assert schema.task == data.task == TASKS[schema.kind]
    batch = batches(data, size=32, batch_size=2, seed=0)(1)
    assert batch.source.shape == (2, 3, 32, 32)
    assert -1.0 <= batch.source.min() < batch.source.max() <= 1.0
    if schema.kind == "photos":
        assert batch.target is None
    else:
        large = 64 if schema.kind == "super_resolution" else 32
        assert batch.target.shape == (2, 3, large, large)


def test_the_splits_are_different(schema):
    if schema.kind in ("paired", "unpaired"):
        schema = schema.model_copy(update={"test_source": schema.train_target})
    assert schema.read("train").digest() != schema.read("test").digest()


def test_a_step_gives_the_same_batch_whoever_asks_and_when(schema):
    at = batches(schema.read("train"), size=32, batch_size=2, seed=3)
    fresh = batches(schema.read("train"), size=32, batch_size=2, seed=3)
    five = at(5)
    six = at(6)
    assert same(fresh(6), six)
    assert same(at(5), five)
    assert not same(five, six)
    assert not same(batches(schema.read("train"), size=32, batch_size=2, seed=4)(5), five)


def test_a_cache_that_is_too_small_changes_nothing(schema):
    small = schema.model_copy(update={"cache_mib": 1e-6})
    one, two = (
        batches(some.read("train"), size=32, batch_size=2, seed=3) for some in (schema, small)
    )
    assert all(same(one(step), two(step)) for step in (1, 2, 1))


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_made_ahead_are_the_same(schema, workers):
    data = schema.read("train")
    plain = batches(data, size=32, batch_size=2, seed=3)
    ahead = batches(data, size=32, batch_size=2, seed=3, workers=workers)
    for step in (1, 2, 3, 3, 9, 10, 2, 3):  # in turn, again, after a jump, back
        assert same(plain(step), ahead(step))


def test_the_next_batch_is_made_while_this_one_is_used(folder):
    made = []
    data = schemas(folder)[-1].read("train")

    class Watched:
        def crop(self, rng, size):
            made.append(size)
            return data.crop(rng, size)

    at = batches(Watched(), size=32, batch_size=2, seed=3, workers=2)
    at(1)
    at(2)
    at(3)
    deadline = time.monotonic() + 10
    while len(made) < 2 * 5 and time.monotonic() < deadline:  # steps 4 and 5 come by themselves
        time.sleep(0.01)
    assert len(made) == 2 * 5


def test_threads_end_with_the_batches_they_made(folder):
    def alive():
        return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]

    gc.collect()
    at = batches(schemas(folder)[-1].read("train"), size=32, batch_size=1, seed=0, workers=2)
    at(1)
    threads = alive()
    assert threads
    del at
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
    assert alive() == []


def test_what_goes_wrong_in_a_thread_is_raised_where_the_batch_is_asked_for(folder):
    class Broken:
        def crop(self, rng, size):
            raise ValueError("0.png: the PNG image is damaged")

    at = batches(Broken(), size=32, batch_size=1, seed=0, workers=1)
    with pytest.raises(ValueError, match=r"0\.png: the PNG image is damaged"):
        at(1)


# what shipped weights and published figures were made from


def digest(*arrays):
    seen = hashlib.sha256()
    for array in arrays:
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()[:16]


def batch_digest(batch):
    return digest(batch.source.numpy(), batch.target.numpy())


same_codecs = pytest.mark.skipif(
    not importlib.metadata.version("pillow").startswith("13.0"),
    reason="digests were taken with Pillow 13.0, whose JPEG library decides about the last bit",
)


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # paths in recipes are relative to it


@same_codecs
def test_crops_of_restore_are_those_its_weights_were_made_from(at_root):
    recipe, _ = load_recipe("restore", CompressRecipe)
    train, test = recipe.data.read("train"), recipe.data.read("test")
    at = batches(train, size=96, batch_size=4, seed=7)
    got = [batch_digest(at(step)) for step in (1, 2, 1999)]
    assert got == ["dbd7a06a3d354785", "cae96ee36e02bc02", "e20fa9cec4a4e3a3"]
    teachers = batches(train, size=96, batch_size=4, seed=2026)
    assert batch_digest(teachers(10000)) == "af4ecfc474768b79"
    wholes = [image for i in range(3) for image in test.whole(i, multiple=4)]
    assert digest(*wholes) == "6bb631056d38034d"


@same_codecs
def test_crops_of_the_facades_teacher_are_those_it_was_trained_on(shared_data):
    recipe, _ = load_recipe("facades-teacher", TrainRecipe)
    folder = shared_data / "facades"
    data = recipe.data.model_copy(update={"train": folder / "train", "test": folder / "val"})
    at = batches(data.read("train"), size=128, batch_size=1, seed=2026)
    got = [batch_digest(at(step)) for step in (1, 2, 31999)]
    assert got == ["f7bf9e28ca6ec7ae", "e33bcc179dbbf5fe", "666266b2a1aa939a"]


# published sets


def test_facades_are_pairs_of_halves(shared_data):
    folder = shared_data / "facades"
    schema = HalvesData(kind="halves", train=folder / "train", test=folder / "val", source="right")
    train, test = schema.read("train"), schema.read("test")
    assert (len(train), len(test)) == (400, 100)
    labels, photo = test.whole(0, multiple=4)
    assert labels.shape == photo.shape == (256, 256, 3)
    # a label map is flat: most neighbours are equal, up to JPEG; a photo's are not
    flat, rough = (
        np.median(np.abs(np.diff(image.astype(int), axis=1))) for image in (labels, photo)
    )
    assert flat < rough


def test_horse2zebra_is_unpaired_and_its_grey_files_are_colour_to_us(shared_data):
    folder = shared_data / "horse2zebra"
    schema = UnpairedData(
        kind="unpaired",
        train_source=folder / "trainA",
        train_target=folder / "trainB",
        test_source=folder / "testA",
        test_target=folder / "testB",
    )
    train, test = schema.read("train"), schema.read("test")
    assert (len(train), len(train.targets.files)) == (1067, 1334)
    assert (len(test), len(test.targets.files)) == (120, 140)
    everything = (train.sources, train.targets, test.sources, test.targets)
    files = [file for part in everything for file in part.files]
    assert {(file.height, file.width) for file in files} == {(256, 256)}
    grey = [file for file in files if b"\xff\xc0\x00\x0b" in file.path.read_bytes()]
    assert len(grey) == 7  # a frame header of 11 bytes has one component
    pixels = grey[0].read()
    assert pixels.shape == (256, 256, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    batch = batches(train, size=256, batch_size=2, seed=0)(1)
    assert batch.source.shape == batch.target.shape == (2, 3, 256, 256)


def test_set5_is_super_resolution(shared_data, tmp_path):
    for path in (shared_data / "sr_set5" / "image_SRF_4").glob("*.png"):
        name, kind = path.stem.rsplit("_", 1)
        (tmp_path / kind).mkdir(exist_ok=True)
        (tmp_path / kind / f"{name}.png").symlink_to(path)
    schema = SuperResolutionData(
        kind="super_resolution",
        train=tmp_path / "HR",
        test=tmp_path / "HR",
        scale=4,
        test_low=tmp_path / "LR",
    )
    made, given = schema.read("train"), schema.read("test")
    assert len(made) == len(given) == 5
    for index in range(5):
        ours, high = made.whole(index, multiple=1)
        theirs, same_high = given.whole(index, multiple=1)
        assert ours.shape == theirs.shape
        assert np.array_equal(high, same_high)
        # theirs is bicubic too, by another program
        assert np.abs(ours.astype(int) - theirs).mean() < 1.0


def test_a_square_of_one_colour_is_drawn_again(tmp_path):
    sky = np.full((64, 256, 3), (200, 220, 255), np.uint8)
    sky[:, 240:] = np.random.default_rng(0).integers(0, 256, (64, 16, 3))
    Image.fromarray(sky).save(tmp_path / "0.png")
    data = Photos(open_folder(tmp_path, "refuse"), PixelCache(), Jitter(mirror=False))
    at = batches(data, size=32, batch_size=4, seed=0)
    assert all(float(image.std((1, 2)).max()) > 0 for image in at(1).source)
    assert torch.equal(at(1).source, at(1).source)


def test_images_of_one_colour_alone_are_refused(tmp_path):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "0.png")
    data = Photos(open_folder(tmp_path, "refuse"), PixelCache(), Jitter(mirror=False))
    with pytest.raises(ValueError, match="100 crops of 32 pixels in a row are of one colour"):
        batches(data, size=32, batch_size=1, seed=0)(1)
