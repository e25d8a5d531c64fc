import re

import numpy as np
import pytest

from devices.sealed import BundleError
from devices.session import DeviceError, StubSession
from serving.models import GOLDEN_TOLERANCE_DB, NotReadyError, ServedModel, read_bundle
from serving.models import start_session as start
from serving.settings import ServingSettings

NEGATIVE = StubSession(lambda images: -images)


class Opener:
    """Gives a stub and remembers what was asked of it."""

    def __init__(self, function=NEGATIVE.function):
        self.asked = []
        self.shapes = []
        self.function = function

    def __call__(self, engine, profile, *, backend, precision):
        self.asked.append((engine.name, profile.name, backend, precision))
        return StubSession(self.run)

    def run(self, images):
        self.shapes.append(images.shape)
        return self.function(images)


def test_a_bundle_is_opened_warmed_up_and_checked(seal_bundle):
    opener = Opener()
    start(read_bundle(seal_bundle()), opener)

    assert opener.asked == [("engine.onnx", "bench", "onnxruntime", "fp32")]
    assert opener.shapes == [(1, 3, 32, 32)] * 5  # three to warm up, two golden pairs


@pytest.mark.parametrize(
    "name", ["engine.onnx", "golden.npz", "manifest.json", "manifest.json.sha256"]
)
def test_a_flipped_byte_anywhere_keeps_a_bundle_from_loading(seal_bundle, name):
    folder = seal_bundle()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)

    with pytest.raises(BundleError, match=rf"{name.removesuffix('.sha256')}.* does not match"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["engine.onnx", "golden.npz"])
def test_a_missing_file_is_named(seal_bundle, name):
    folder = seal_bundle()
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(folder)


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(
        BundleError, match=r"manifest\.json is missing: .* is not a complete bundle"
    ):
        read_bundle(tmp_path)


def test_an_engine_outside_the_digests_is_refused(seal_bundle):
    folder = seal_bundle(engine_file="../elsewhere.onnx")
    with pytest.raises(BundleError, match=re.escape("has no digest for '../elsewhere.onnx'")):
        read_bundle(folder)


def test_a_bundle_that_is_not_compiled_says_what_finishes_it(seal_bundle):
    folder = seal_bundle(compiled=False)
    with pytest.raises(
        BundleError, match=r"is not compiled for bench yet .* on the board with pocketgan deploy"
    ):
        read_bundle(folder)


def test_an_engine_that_does_not_reproduce_the_golden_pairs_is_refused(seal_bundle):
    bundle = read_bundle(seal_bundle())
    with pytest.raises(
        BundleError,
        match=r"golden pairs \(-?\d+\.\d dB to the float student, floor 30\); make the bundle",
    ):
        start(bundle, Opener(lambda images: images))


def test_an_engine_whose_values_are_not_finite_is_refused(seal_bundle):
    bundle = read_bundle(seal_bundle())
    with pytest.raises(
        BundleError, match="golden image 0 came out with values that are not finite"
    ):
        start(bundle, Opener(lambda images: images * np.float32("nan")))


def test_an_engine_that_makes_other_shapes_is_refused(seal_bundle):
    bundle = read_bundle(seal_bundle())
    with pytest.raises(BundleError, match=r"golden image 0 came out as \(1, 3, 32, 31\)"):
        start(bundle, Opener(lambda images: -images[..., 1:]))


def test_a_smaller_difference_is_served_and_logged(seal_bundle, caplog):
    # an error of 0.02 of a span of 2 is 40 dB: above the floor, below the sealed 60 dB
    start(read_bundle(seal_bundle()), Opener(lambda images: np.float32(0.02) - images))
    assert "come out at 40.0 dB here, at 60.0 dB where" in caplog.text


def test_the_sealed_difference_is_not_worth_a_word(seal_bundle, caplog):
    error = np.float32(2 * 10 ** (-(60 - GOLDEN_TOLERANCE_DB / 2) / 20))
    start(read_bundle(seal_bundle()), Opener(lambda images: error - images))
    assert caplog.text == ""


def test_a_served_model_translates_once_it_is_warm(seal_bundle, png):
    served = ServedModel(read_bundle(seal_bundle()), ServingSettings(), Opener())
    with pytest.raises(NotReadyError, match="the engine is warming up; try again in a second"):
        _ = served.translator

    served.warm_up()

    assert served.translator.translate(png).png


def test_a_served_model_that_cannot_start_stays_closed(seal_bundle):
    def opener(engine, profile, *, backend, precision):
        raise DeviceError("no such runtime")

    served = ServedModel(read_bundle(seal_bundle()), ServingSettings(), opener)
    with pytest.raises(DeviceError, match="no such runtime"):
        served.warm_up()
    with pytest.raises(NotReadyError, match="the engine failed its start; the server's log says"):
        _ = served.translator
