"""Bytes in, bytes out: decode, translate, encode, and remember how long each part took."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from deploy import imaging
from deploy.imaging import ImageTooLargeError, Pixels
from deploy.manifests import ModelSpec
from devices.profile import DeviceProfile
from devices.session import Images, Session
from serving.budget import StartCheck
from serving.formats import Picture, encode_picture, read_picture
from serving.instances import Instances
from serving.latency import LatencyView, Series
from serving.work import GoneError, Job, Translation, TranslationError

MIN_SIDE = 16
"""Smallest height and width the engine is given: the mirrored borders inside a generator need
something to mirror."""

Outcome = Translation | Exception
Tell = Callable[[Job, Outcome], None]

log = logging.getLogger(__name__)


def padding_multiple(model: ModelSpec, height: int, width: int) -> int:
    """What height and width of an image are padded to multiples of; a sliver gets more."""
    small = min(height, width) < MIN_SIDE
    return math.lcm(model.size_multiple, MIN_SIDE) if small else model.size_multiple


@dataclass(frozen=True)
class _Decoded:
    """A job that is ready for the engine, and when it was begun and decoded."""

    job: Job
    picture: Picture
    padded: tuple[int, int]
    started: float
    decoded: float

    @property
    def queued(self) -> float:
        return self.started if self.job.queued is None else self.job.queued


class Translator:
    """The sessions of one bundle, and the times of what went through them.

    May be called from many threads: decoding and encoding run beside each other, each session
    takes one call at a time.

    Attributes:
        digest: Of the bundle, with the algorithm's name before it.
        batch: Images of one shape that the engine best takes together; see
            `serving.instances.best_batch`.
        instances: The sessions.

    Args:
        sessions: Warm, at least one, all of the same engine.
        model: What the engine wants of an image.
        profile: Where the latency budget and its image size come from.
        digest: As above.
        max_pixels: Largest image, in pixels, padding included.
        fits: Raises `ImageTooLargeError` for a padded height and width that the sessions cannot
            translate within their memory.
        whole_pixels: Most pixels that go through the engine at once; as ``max_pixels`` if left out.
        batch: As above.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        model: ModelSpec,
        profile: DeviceProfile,
        *,
        digest: str,
        max_pixels: int,
        fits: Callable[[int, int], None] = lambda height, width: None,
        whole_pixels: int | None = None,
        batch: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.digest = digest
        self.batch = batch
        self.instances = Instances(sessions)
        self._model = model
        self._profile = profile
        self._max_pixels = max_pixels
        self._fits = fits
        self._whole_pixels = whole_pixels or max_pixels
        self._clock = clock
        self._engine_ms = Series()
        self._engine_at_image_size_ms = Series()
        self._request_ms = Series()

    def translate(self, job: Job) -> Translation:
        """Translate one image.

        Raises:
            ImageError: The bytes are not an image that is accepted.
            ImageTooLargeError: It has too many pixels.
            TranslationError: The engine failed.
            GoneError: The job is not wanted any more.
        """
        outcomes: list[Outcome] = []
        self.translate_all([job], lambda _, outcome: outcomes.append(outcome))
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def translate_all(self, jobs: Iterable[Job], tell: Tell) -> None:
        """Translate images, those of one shape beside each other together; never raises.

        Args:
            jobs: In the order in which they are begun.
            tell: Called once for every job, in their order among those that succeed, as soon as
                it is done.
        """
        decoded = []
        for job in jobs:
            try:
                decoded.append(self._decode(job))
            except Exception as error:  # anything: the thread must live on
                tell(job, error)
        for _, alike in groupby(decoded, key=lambda one: one.padded):
            self._translate_alike(list(alike), tell)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the engine sees of an image.

        Raises:
            ImageTooLargeError: Together they are more than the limit: a sliver grows most.
        """
        multiple = padding_multiple(self._model, height, width)
        padded = height + -height % multiple, width + -width % multiple
        if padded[0] * padded[1] > self._max_pixels:
            raise ImageTooLargeError(
                f"image is {width} x {height}, which the model sees as {padded[1]} x {padded[0]} "
                f"= {padded[0] * padded[1]} pixels; the limit is {self._max_pixels}"
            )
        self._fits(*padded)
        return padded

    def most_together(self, shape: tuple[int, int]) -> int:
        """How many images of a padded shape go through the engine at once; memory limits it."""
        return max(1, min(self.batch, self._whole_pixels // max(1, shape[0] * shape[1])))

    def latency(self, start: StartCheck | None = None) -> LatencyView:
        """Percentiles of what went through, beside the profile's budget and what start showed."""
        return LatencyView(
            engine=self._engine_ms.percentiles(),
            engine_at_image_size=self._engine_at_image_size_ms.percentiles(),
            request=self._request_ms.percentiles(),
            image_size=self._profile.image_size,
            budget=self._profile.budget,
            start=start,
        )

    def _decode(self, job: Job) -> _Decoded:
        if not job.wanted:
            raise GoneError
        started = self._clock()
        limit = job.max_decoded_pixels or self._max_pixels
        picture = read_picture(job.data, max_pixels=limit, plan=job.plan)
        height, width = picture.pixels.shape[:2]
        return _Decoded(job, picture, self.padded(height, width), started, self._clock())

    def _translate_alike(self, decoded: list[_Decoded], tell: Tell) -> None:
        """Translate images of one padded shape; where they fail together, each by itself."""
        most = self.most_together(decoded[0].padded)
        for at in range(0, len(decoded), most):
            together = decoded[at : at + most]
            try:
                answers, times = self._through_the_engine(together)
            except Exception as error:
                if len(together) == 1:
                    tell(together[0].job, error)
                else:
                    log.warning("the engine failed on %d images together", len(together))
                    for one in together:
                        self._translate_alike([one], tell)
                continue
            for one, answer in zip(together, answers, strict=True):
                try:
                    outcome: Outcome = self._encode(one, answer, times, len(together))
                except Exception as error:
                    outcome = error
                tell(one.job, outcome)

    def _through_the_engine(
        self, together: list[_Decoded]
    ) -> tuple[list[Pixels], tuple[float, float, float]]:
        """What the engine makes of some images, and when it was free, prepared for and done."""
        model = self._model
        # the turn covers the float images too: they are the large ones, and a session may hand
        # out memory that its next run writes again
        with self.instances.turn() as session:
            turn = self._clock()
            images = [self._to_model(one) for one in together]
            batch = images[0] if len(images) == 1 else np.concatenate(images)
            prepared = self._clock()
            translated = self._run(session, batch)
            ran = self._clock()
            answers = []
            for one, image in zip(together, translated, strict=True):
                height, width = (side * model.scale for side in one.picture.pixels.shape[:2])
                answers.append(imaging.from_model(image[None, :, :height, :width], model.pixels)[0])
        return answers, (turn, prepared, ran)

    def _to_model(self, one: _Decoded) -> Images:
        """``(1, 3, H, W)``, mirrored at the right and the bottom up to its padded shape."""
        images = imaging.to_model(one.picture.pixels, self._model.pixels)
        return imaging.pad_to_multiple(images, padding_multiple(self._model, *images.shape[2:]))

    def _encode(
        self, one: _Decoded, answer: Pixels, times: tuple[float, float, float], batch: int
    ) -> Translation:
        if not one.job.wanted:
            raise GoneError
        turn, prepared, ran = times
        encoded = encode_picture(one.picture.answered(answer), one.job.output)
        translation = Translation(
            image=encoded,
            format=one.job.output.format,
            digest=self.digest,
            pixels=one.padded[0] * one.padded[1],
            batch=batch,
            queue_ms=(one.started - one.queued + turn - one.decoded) * 1e3,
            decode_ms=(one.decoded - one.started + prepared - turn) * 1e3,
            engine_ms=(ran - prepared) * 1e3,
            encode_ms=(self._clock() - ran) * 1e3,
        )
        self._engine_ms.add(translation.engine_ms)
        size = self._profile.image_size
        if batch == 1 and one.padded == (size, size):
            self._engine_at_image_size_ms.add(translation.engine_ms)
        self._request_ms.add(translation.request_ms)
        return translation

    def _run(self, session: Session, images: Images) -> Images:
        """Run the session; answers that are no images are errors too."""
        count, _, height, width = images.shape
        try:
            translated = session.run(images)
        except Exception as error:  # each runtime raises its own kinds
            log.exception("the engine failed on an image of %d x %d pixels", width, height)
            raise TranslationError(
                f"the engine failed on an image of {width} x {height} pixels; "
                "the server's log says why"
            ) from error
        expected = (count, 3, height * self._model.scale, width * self._model.scale)
        if translated.shape != expected or not np.isfinite(translated).all():
            log.error("the engine made %s of %s", translated.shape, images.shape)
            raise TranslationError(
                f"the engine made no image of one of {width} x {height} pixels "
                f"(shape {translated.shape} for {expected}, or values that are not finite)"
            )
        return translated
