import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deploy.imaging import ImageTooLargeError, decode, encode_png
from devices.session import StubSession
from serving.translator import BusyError, TranslationError, Translator


class Recorder:
    """A session that keeps what it was given."""

    def __init__(self, scale=1):
        self.seen = []
        self.scale = scale

    def run(self, images):
        self.seen.append(images)
        return images.repeat(self.scale, axis=2).repeat(self.scale, axis=3)


class Gate:
    """A session that works until the test lets it end."""

    def __init__(self):
        self.entered = threading.Event()
        self.open = threading.Event()

    def run(self, images):
        self.entered.set()
        assert self.open.wait(20)
        return images


@pytest.fixture
def translator_of(manifest):
    def make(session, *, scale=1, size_multiple=4, **limits):
        limits = {"max_pixels": 10_000, "max_queue": 4, "wait_timeout_s": 20.0} | limits
        model = manifest.model.model_copy(update={"scale": scale, "size_multiple": size_multiple})
        return Translator(session, model, manifest.profile, **limits)

    return make


@pytest.mark.parametrize(
    ("height", "width", "seen"),
    [
        (32, 48, (32, 48)),
        (33, 47, (36, 48)),
        (1, 1, (16, 16)),
        (3, 50, (16, 64)),
        (17, 16, (20, 16)),
    ],
)
def test_an_image_is_padded_for_the_engine_and_cropped_after(
    translator_of, photo, height, width, seen
):
    session = Recorder()
    pixels = photo(height, width)

    answer = translator_of(session).translate(encode_png(pixels))

    assert session.seen[0].shape == (1, 3, *seen)
    np.testing.assert_array_equal(decode(answer.png), pixels)


def test_the_padding_mirrors_the_image(translator_of, photo):
    session = Recorder()
    translator_of(session).translate(encode_png(photo(32, 31)))
    np.testing.assert_array_equal(session.seen[0][..., 31], session.seen[0][..., 29])


def test_a_generator_that_enlarges_is_cropped_at_its_scale(translator_of, photo):
    pixels = photo(30, 17)
    answer = translator_of(Recorder(scale=2), scale=2).translate(encode_png(pixels))
    np.testing.assert_array_equal(decode(answer.png), pixels.repeat(2, 0).repeat(2, 1))


def test_a_sliver_that_padding_makes_huge_is_refused(translator_of, photo):
    session = Recorder()
    with pytest.raises(
        ImageTooLargeError,
        match="image is 1 x 2000, which the model sees as 16 x 2000 = 32000 pixels; "
        "the limit is 10000",
    ):
        translator_of(session).translate(encode_png(photo(2000, 1)))
    assert session.seen == []


def test_where_the_time_went(translator_of, png):
    ticks = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])  # start decoded turn prepared ran encoded
    translator = translator_of(Recorder(), clock=lambda: next(ticks))

    answer = translator.translate(png)

    assert answer.decode_ms == 5000.0
    assert answer.wait_ms == 2000.0
    assert answer.engine_ms == 8000.0
    assert answer.encode_ms == 16000.0
    assert answer.request_ms == 31000.0


def test_only_images_of_the_profiles_size_stand_beside_its_budget(translator_of, photo, manifest):
    translator = translator_of(Recorder())
    for height, width in [(32, 32), (31, 30), (64, 64)]:
        translator.translate(encode_png(photo(height, width)))

    seen = translator.latency()

    assert (seen.engine.count, seen.engine_at_image_size.count, seen.request.count) == (3, 2, 3)
    assert (seen.image_size, seen.budget) == (32, manifest.profile.budget)


def test_the_engine_is_never_asked_twice_at_once(translator_of, png):
    inside, most_inside = [], []

    def slow(images):
        inside.append(1)
        most_inside.append(len(inside))
        time.sleep(0.01)  # long enough for the others to come in, if they could
        inside.pop()
        return images

    translator = translator_of(StubSession(slow), max_queue=7)
    with ThreadPoolExecutor(8) as pool:
        pngs = {answer.png for answer in pool.map(translator.translate, [png] * 8)}

    assert most_inside == [1] * 8
    assert len(pngs) == 1
    assert translator.latency().request.count == 8


def test_one_too_many_is_sent_away_and_the_place_is_free_again(translator_of, png):
    gate = Gate()
    translator = translator_of(gate, max_queue=0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(translator.translate, png)
        assert gate.entered.wait(20)
        with pytest.raises(
            BusyError, match="no place free: 1 translated or waiting already; try again later"
        ) as busy:
            translator.translate(png)
        gate.open.set()
        first.result(20)

    assert busy.value.retry_after_s == 1
    assert translator.translate(png).png


def test_waiting_for_the_engine_has_an_end(translator_of, png):
    gate = Gate()
    translator = translator_of(gate, wait_timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(translator.translate, png)
        assert gate.entered.wait(20)
        with pytest.raises(BusyError, match=r"the engine was not free within 0\.01 s; try again"):
            translator.translate(png)
        gate.open.set()
        first.result(20)


def test_a_full_queue_says_how_long_it_takes(translator_of, png):
    ticks = iter([0.0, 0.0, 0.0, 0.0, 2.5, 2.5])
    gate = Gate()
    gate.open.set()
    translator = translator_of(gate, max_queue=0, clock=lambda: next(ticks, 0.0))
    translator.translate(png)  # took the engine 2.5 s
    gate.open.clear()
    gate.entered.clear()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(translator.translate, png)
        assert gate.entered.wait(20)
        with pytest.raises(BusyError) as busy:
            translator.translate(png)
        gate.open.set()
        second.result(20)
    assert busy.value.retry_after_s == 3


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda images: 1 / 0, "the engine failed on an image of 32 x 32 pixels; the server's log"),
        (lambda images: images[:, :, 1:], r"made no image .* \(shape \(1, 3, 31, 32\) for "),
        (lambda images: images * np.float32("nan"), "or values that are not finite"),
    ],
)
def test_an_engine_that_fails_is_an_error_and_not_an_image(translator_of, png, function, sentence):
    translator = translator_of(StubSession(function))
    with pytest.raises(TranslationError, match=sentence):
        translator.translate(png)
    assert translator.latency().request.count == 0
