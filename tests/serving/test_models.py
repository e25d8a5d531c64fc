import re
import shutil
import time

import numpy as np
import pytest

from deploy.golden import GoldenPairs
from deploy.imaging import from_model, range_spec, to_model
from deploy.sealing import seal
from devices.sealed import BundleError
from devices.session import DeviceError, StubSession
from serving.golden import GOLDEN_TOLERANCE_DB
from serving.models import load_model, read_bundle, warm_sizes
from serving.models import start_session as start
from serving.settings import ServingSettings, read_settings
from serving.work import Job, TranslationError

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


def test_a_truth_that_is_lost_is_refused(seal_bundle, tmp_path, photo, manifest):
    source = photo(64, 32).reshape(2, 32, 32, 3)
    truth = from_model(-to_model(source))
    golden = GoldenPairs(source, -to_model(source), truth, None)

    def fill(folder):
        (folder / "engine.onnx").write_bytes(b"engine")
        golden.write(folder / "golden.npz")
        return lambda sha256: manifest.model_copy(update={"sha256": sha256})

    seal(tmp_path / "with truth", "manifest.json", fill)
    bundle = read_bundle(tmp_path / "with truth")
    start(bundle, Opener())
    with pytest.raises(BundleError, match=r"loses \d+\.\d\d dB to the truth, floor 0\.5"):
        start(bundle, Opener(lambda images: np.float32(0.02) - images))


def test_golden_images_are_judged_as_the_model_sees_pixels(seal_bundle, tmp_path, photo, manifest):
    spec = range_spec(0, 1, "bgr")
    source = photo(64, 32).reshape(2, 32, 32, 3)
    golden = GoldenPairs(source, 1 - to_model(source, spec), None, source)
    model = manifest.model.model_copy(update={"pixels": spec})

    def fill(folder):
        (folder / "engine.onnx").write_bytes(b"engine")
        golden.write(folder / "golden.npz")
        return lambda sha256: manifest.model_copy(update={"sha256": sha256, "model": model})

    seal(tmp_path / "bgr", "manifest.json", fill)
    start(read_bundle(tmp_path / "bgr"), Opener(lambda images: 1 - images))


def test_every_instance_is_warm_for_every_size(seal_bundle):
    opener = Opener()
    settings = ServingSettings(
        instances=2, warm_sizes="32,64x40,33x30", latency_policy="off", max_together=1
    )
    load_model(read_bundle(seal_bundle()), settings, opener)

    profile, other, padded = (1, 3, 32, 32), (1, 3, 64, 40), (1, 3, 36, 32)
    assert opener.shapes == ([profile] * 3 + [other] * 3 + [padded] * 3 + [profile] * 2) * 2


def test_a_size_that_the_engine_does_not_take_is_named(seal_bundle):
    def fixed(images):
        if images.shape[2:] != (32, 32):
            raise DeviceError("takes 32 x 32 only")
        return -images

    with pytest.raises(BundleError, match="cannot be warmed up at 64x40: takes 32 x 32 only"):
        start(read_bundle(seal_bundle()), Opener(fixed), [(64, 40)])


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("", []), ("256", [(256, 256)]), ("256,512x384", [(256, 256), (512, 384)])],
)
def test_sizes_to_warm_up(text, sizes):
    assert warm_sizes(text) == sizes
    assert read_settings({"POCKETGAN_WARM_SIZES": text}).warm_sizes == text


@pytest.mark.parametrize("text", ["0", "256x", "256,", "256;512", "1x2x3", " 256"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="POCKETGAN_WARM_SIZES"):
        read_settings({"POCKETGAN_WARM_SIZES": text})


def slow(images):
    time.sleep(0.008)
    return -images


def test_an_engine_over_its_budget_serves_and_the_log_says_so(seal_bundle, caplog):
    settings = ServingSettings(max_together=1)
    loaded = load_model(read_bundle(seal_bundle()), settings, Opener(slow))
    assert loaded.check is not None
    assert not loaded.check.within_budget
    assert re.search(
        r"negative on this machine: p50 is \S+ ms, the budget is 5 ms; p90 is", caplog.text
    )


def test_an_engine_over_its_budget_is_refused_where_that_is_asked_for(seal_bundle):
    settings = ServingSettings(latency_policy="refuse")
    with pytest.raises(
        DeviceError, match=r"budget is 5 ms; .*; serve it on the device .*LATENCY_POLICY=warn"
    ):
        load_model(read_bundle(seal_bundle()), settings, Opener(slow))


def test_a_bundle_that_is_replaced_while_it_is_read_is_refused(seal_bundle):
    bundle = read_bundle(seal_bundle())

    def replacing(engine, profile, *, backend, precision):
        shutil.rmtree(bundle.path)
        seal_bundle(engine=b"another")
        return NEGATIVE

    with pytest.raises(BundleError, match="was replaced while it was read; try again"):
        load_model(bundle, ServingSettings(latency_policy="off"), replacing)


def test_after_loading_the_folder_is_not_needed(seal_bundle, png):
    bundle = read_bundle(seal_bundle())
    digest = f"sha256:{bundle.digest}"
    loaded = load_model(bundle, ServingSettings(latency_policy="off"), Opener())
    shutil.rmtree(bundle.path)

    translation = loaded.translator.translate(Job(png))

    assert translation.digest == loaded.digest == loaded.view().digest == digest


def test_whether_the_engine_gave_images_is_told(seal_bundle, png):
    told, answer = [], [lambda images: -images]
    opener = Opener(lambda images: answer[-1](images))
    settings = ServingSettings(latency_policy="off", max_together=1)
    loaded = load_model(read_bundle(seal_bundle()), settings, opener, told.append)
    assert told == []  # nothing of the warm-up

    loaded.translator.translate(Job(png))
    answer.append(lambda images: images * np.float32("nan"))
    with pytest.raises(TranslationError):
        loaded.translator.translate(Job(png))
    answer.append(lambda images: images.no_such_thing)
    with pytest.raises(TranslationError):
        loaded.translator.translate(Job(png))

    assert told == [True, False, False]


def test_a_model_at_rest_gives_back_memory(seal_bundle):
    trimmed = []

    class Session(StubSession):
        def trim(self):
            trimmed.append(self)

    def opener(engine, profile, *, backend, precision):
        return Session()

    settings = ServingSettings(latency_policy="off", instances=3)
    load_model(read_bundle(seal_bundle()), settings, opener).rest()
    assert len({id(session) for session in trimmed}) == 3


def test_a_runtime_that_cannot_give_back_memory_is_left_alone(seal_bundle):
    loaded = load_model(read_bundle(seal_bundle()), ServingSettings(), Opener())
    loaded.rest()
    assert len(loaded.translator.instances) == 1
