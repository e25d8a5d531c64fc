import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deploy.imaging import RGB, ImageError, ImageTooLargeError, decode, range_spec, to_model
from devices.session import StubSession
from serving.negotiate import Output
from serving.translator import Translator
from serving.work import GoneError, Job, Translation, TranslationError
from tests.pictures import encode_png


class Recorder:
    """A session that keeps what it was given."""

    def __init__(self, scale=1):
        self.seen = []
        self.scale = scale

    def run(self, images):
        self.seen.append(images)
        return images.repeat(self.scale, axis=2).repeat(self.scale, axis=3)


class Together:
    """A session that takes batches and remembers them; it fails on the levels it is told to."""

    def __init__(self, fails_on=()):
        self.batches = []
        self.fails_on = fails_on

    def run(self, images):
        self.batches.append(len(images))
        if any(to_level(image) in self.fails_on for image in images):
            raise MemoryError("secret/path")
        return -images


def to_level(image):
    return round(float(image[0, 0, 0] + 1) * 127.5)


def plain(level, height=32, width=32):
    """A PNG of one grey level."""
    return encode_png(np.full((height, width, 3), level, np.uint8))


def told_of(translator, jobs):
    """What `translate_all` tells, in the order in which it does: job, outcome."""
    told = []
    translator.translate_all(jobs, lambda job, outcome: told.append((job, outcome)))
    return told


@pytest.fixture
def translator_of(manifest):
    def make(*sessions, scale=1, size_multiple=4, pixels=RGB, **options):
        options = {"max_pixels": 10_000, "digest": "sha256:0"} | options
        update = {"scale": scale, "size_multiple": size_multiple, "pixels": pixels}
        model = manifest.model.model_copy(update=update)
        return Translator(sessions, model, manifest.profile, **options)

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

    answer = translator_of(session).translate(Job(encode_png(pixels)))

    assert session.seen[0].shape == (1, 3, *seen)
    np.testing.assert_array_equal(decode(answer.image), pixels)


def test_the_padding_mirrors_the_image(translator_of, photo):
    session = Recorder()
    translator_of(session).translate(Job(encode_png(photo(32, 31))))
    np.testing.assert_array_equal(session.seen[0][..., 31], session.seen[0][..., 29])


def test_a_generator_that_enlarges_is_cropped_at_its_scale(translator_of, photo):
    pixels = photo(30, 17)
    answer = translator_of(Recorder(scale=2), scale=2).translate(Job(encode_png(pixels)))
    np.testing.assert_array_equal(decode(answer.image), pixels.repeat(2, 0).repeat(2, 1))


def test_a_sliver_that_padding_makes_huge_is_refused(translator_of, photo):
    session = Recorder()
    with pytest.raises(
        ImageTooLargeError,
        match="image is 1 x 2000, which the model sees as 16 x 2000 = 32000 pixels; "
        "the limit is 10000",
    ):
        translator_of(session).translate(Job(encode_png(photo(2000, 1))))
    assert session.seen == []


def test_where_the_time_went(translator_of, png):
    ticks = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])  # start decoded turn prepared ran encoded
    translator = translator_of(Recorder(), clock=lambda: next(ticks))

    answer = translator.translate(Job(png, queued=-3.0))

    assert answer.decode_ms == 5000.0
    assert answer.queue_ms == 5000.0
    assert answer.engine_ms == 8000.0
    assert answer.encode_ms == 16000.0
    assert answer.request_ms == 34000.0
    assert answer.server_timing == (
        "queue;dur=5000.00, decode;dur=5000.00, engine;dur=8000.00, encode;dur=16000.00"
    )


def test_only_images_of_the_profiles_size_stand_beside_its_budget(translator_of, photo, manifest):
    translator = translator_of(Recorder())
    for height, width in [(32, 32), (31, 30), (64, 64)]:
        translator.translate(Job(encode_png(photo(height, width))))

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

    translator = translator_of(StubSession(slow))
    with ThreadPoolExecutor(8) as pool:
        jobs = [Job(png) for _ in range(8)]
        pngs = {answer.image for answer in pool.map(translator.translate, jobs)}

    assert most_inside == [1] * 8
    assert len(pngs) == 1
    assert translator.latency().request.count == 8


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
        translator.translate(Job(png))
    assert translator.latency().request.count == 0


def test_the_engine_sees_pixels_as_its_manifest_says(translator_of, photo):
    recorder, spec = Recorder(), range_spec(0, 1, "bgr")
    pixels = photo(32, 32)
    answer = translator_of(recorder, pixels=spec).translate(Job(encode_png(pixels)))
    np.testing.assert_array_equal(recorder.seen[0], to_model(pixels, spec))
    assert recorder.seen[0][0, 0, 5, 7] == pixels[5, 7, 2] / np.float32(255)  # blue first
    np.testing.assert_array_equal(decode(answer.image), pixels)


def test_images_of_one_shape_go_through_the_engine_together(translator_of):
    session = Together()
    jobs = [Job(plain(level)) for level in range(5)]

    told = told_of(translator_of(session, batch=4), jobs)

    assert session.batches == [4, 1]
    assert [job for job, _ in told] == jobs
    assert [decode(done.image)[0, 0, 0] for _, done in told] == [255, 254, 253, 252, 251]
    assert [done.batch for _, done in told] == [4, 4, 4, 4, 1]


def test_what_is_together_is_bit_for_bit_what_is_alone(translator_of, photo):
    datas = [encode_png(photo(30, 31) // divisor) for divisor in (1, 2, 3)]
    datas.append(encode_png(photo(29, 32)))  # padded alike, cropped otherwise
    alone, together = translator_of(Together()), translator_of(Together(), batch=4)

    want = [alone.translate(Job(data)).image for data in datas]
    told = told_of(together, [Job(data) for data in datas])

    assert [done.image for _, done in told] == want
    assert [done.batch for _, done in told] == [4] * 4


def test_only_neighbours_of_one_padded_shape_go_together(translator_of):
    session = Together()
    sizes = [(32, 32), (32, 32), (48, 32), (32, 32), (31, 30)]
    told_of(
        translator_of(session, batch=4), [Job(plain(0, height, width)) for height, width in sizes]
    )
    assert session.batches == [2, 1, 2]


def test_a_batch_has_no_more_pixels_than_the_largest_image(translator_of):
    session = Together()
    told_of(
        translator_of(session, batch=8, max_pixels=32 * 32 * 3), [Job(plain(0)) for _ in range(5)]
    )
    assert session.batches == [3, 2]


def test_a_batch_that_fails_is_tried_again_one_by_one(translator_of, caplog):
    session = Together(fails_on={2})
    told = told_of(translator_of(session, batch=4), [Job(plain(level)) for level in range(4)])

    assert session.batches == [4, 1, 1, 1, 1]
    assert [type(outcome) for _, outcome in told] == [
        Translation,
        Translation,
        TranslationError,
        Translation,
    ]
    assert "the engine failed on 4 images together" in caplog.text


def test_a_damaged_image_is_its_own_fault_alone(translator_of):
    session = Together()
    jobs = [Job(plain(1)), Job(b"nonsense"), Job(plain(2))]
    told = dict(told_of(translator_of(session, batch=4), jobs))
    assert isinstance(told[jobs[1]], ImageError)
    assert [told[job].batch for job in (jobs[0], jobs[2])] == [2, 2]


def test_an_answer_that_cannot_be_encoded_is_its_own_fault_alone(translator_of):
    jobs = [Job(plain(1), Output("no such format")), Job(plain(2))]
    told = dict(told_of(translator_of(Together(), batch=4), jobs))
    assert isinstance(told[jobs[0]], Exception)
    assert told[jobs[1]].batch == 2


def test_what_nobody_wants_is_not_begun(translator_of):
    session = Together()
    ((_, outcome),) = told_of(translator_of(session), [Job(b"nonsense", wanted=False)])
    assert isinstance(outcome, GoneError)
    assert session.batches == []


def test_what_nobody_wants_any_more_is_not_encoded(translator_of, png):
    job = Job(png, Output("no such format"))  # which would be another error

    def leave(images):
        job.wanted = False
        return -images

    with pytest.raises(GoneError):
        translator_of(StubSession(leave)).translate(job)


def test_several_sessions_work_beside_each_other(translator_of, png):
    both = threading.Barrier(2, timeout=20)

    def meet(images):
        both.wait()
        return images

    translator = translator_of(StubSession(meet), StubSession(meet))
    with ThreadPoolExecutor(2) as pool:
        jobs = [Job(png), Job(png)]
        assert [done.batch for done in pool.map(translator.translate, jobs)] == [1, 1]


def test_the_answer_says_which_bundle_made_it_and_how_it_is_encoded(translator_of, png):
    done = translator_of(Together(), digest="sha256:abc").translate(Job(png, Output("jpeg", 80)))
    assert (done.digest, done.format, done.pixels) == ("sha256:abc", "jpeg", 32 * 32)
    assert done.image.startswith(b"\xff\xd8")


def test_batches_do_not_stand_beside_the_budget(translator_of):
    translator = translator_of(Together(), batch=2)
    told_of(translator, [Job(plain(0)) for _ in range(3)])
    seen = translator.latency()
    assert (seen.engine.count, seen.engine_at_image_size.count) == (3, 1)
