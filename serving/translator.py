"""Bytes in, bytes out: decode, translate, encode, and remember how long each part took."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from deploy import imaging
from deploy.artifacts import ModelSpec
from deploy.imaging import ImageTooLargeError, Pixels
from devices.profile import DeviceProfile
from devices.session import Images, Session
from serving.latency import LatencyView, Series

MIN_SIDE = 16
"""Smallest height and width the engine is given: the mirrored borders inside a generator need
something to mirror."""

log = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """There is no room for one more; the client should come back.

    Attributes:
        retry_after_s: When to come back, in whole seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TranslationError(RuntimeError):
    """The engine failed on an image that it should have translated."""


@dataclass(frozen=True)
class Translation:
    """One answer and where its time went, in milliseconds.

    Attributes:
        png: The translated image.
        decode_ms: From bytes to what the model sees.
        wait_ms: Waiting for the engine.
        engine_ms: ``Session.run`` alone, as in the device profile's budget.
        encode_ms: From what the model made to bytes.
    """

    png: bytes
    decode_ms: float
    wait_ms: float
    engine_ms: float
    encode_ms: float

    @property
    def request_ms(self) -> float:
        """All parts together."""
        return self.decode_ms + self.wait_ms + self.engine_ms + self.encode_ms


class Translator:
    """One session, the queue before it and the times of what went through.

    ``translate`` may be called from many threads: decoding and encoding run beside each other,
    the engine takes one image at a time.

    Args:
        session: A warm engine.
        model: What the engine wants of an image.
        profile: Where the latency budget and its image size come from.
        max_pixels: Largest image, in pixels, padding included.
        max_queue: Images that may wait while the engine works on another.
        wait_timeout_s: Longest that one may wait, in seconds.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        session: Session,
        model: ModelSpec,
        profile: DeviceProfile,
        *,
        max_pixels: int,
        max_queue: int,
        wait_timeout_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._session = session
        self._model = model
        self._profile = profile
        self._max_pixels = max_pixels
        self._places_count = max_queue + 1
        self._places = threading.BoundedSemaphore(self._places_count)
        self._wait_timeout_s = wait_timeout_s
        self._clock = clock
        self._engine = threading.Lock()
        self._engine_ms = Series()
        self._engine_at_image_size_ms = Series()
        self._request_ms = Series()

    def translate(self, data: bytes) -> Translation:
        """Translate one encoded image, at its own size, to PNG.

        Raises:
            ImageError: The bytes are not an image that is accepted.
            ImageTooLargeError: It has too many pixels.
            BusyError: Too many images wait already, or this one waited too long.
            TranslationError: The engine failed.
        """
        with place(self._places, self._full):
            started = self._clock()
            pixels = imaging.decode(data, max_pixels=self._max_pixels)
            multiple = self._padding(pixels)
            decoded = self._clock()
            # the engine's turn covers the float images too: they are the large ones, and a
            # session may hand out memory that its next run writes again
            with self._turn():
                turn = self._clock()
                images = imaging.pad_to_multiple(imaging.to_model(pixels), multiple)
                prepared = self._clock()
                translated = self._run(images)
                ran = self._clock()
                height, width = (side * self._model.scale for side in pixels.shape[:2])
                answer = imaging.from_model(translated[:, :, :height, :width])[0]
            png = imaging.encode_png(answer)
            encoded = self._clock()
        translation = Translation(
            png=png,
            decode_ms=(decoded - started + prepared - turn) * 1e3,
            wait_ms=(turn - decoded) * 1e3,
            engine_ms=(ran - prepared) * 1e3,
            encode_ms=(encoded - ran) * 1e3,
        )
        self._engine_ms.add(translation.engine_ms)
        if images.shape[2:] == (self._profile.image_size, self._profile.image_size):
            self._engine_at_image_size_ms.add(translation.engine_ms)
        self._request_ms.add(translation.request_ms)
        return translation

    def latency(self) -> LatencyView:
        """Percentiles of what went through, beside the profile's budget."""
        return LatencyView(
            engine=self._engine_ms.percentiles(),
            engine_at_image_size=self._engine_at_image_size_ms.percentiles(),
            request=self._request_ms.percentiles(),
            image_size=self._profile.image_size,
            budget=self._profile.budget,
        )

    def _padding(self, pixels: Pixels) -> int:
        """The multiple to pad to; a sliver of an image must not grow beyond the limit."""
        height, width = pixels.shape[:2]
        multiple = self._model.size_multiple
        if min(height, width) < MIN_SIDE:
            multiple = math.lcm(multiple, MIN_SIDE)
        padded_height, padded_width = height + -height % multiple, width + -width % multiple
        if padded_height * padded_width > self._max_pixels:
            raise ImageTooLargeError(
                f"image is {width} x {height}, which the model sees as {padded_width} x "
                f"{padded_height} = {padded_width * padded_height} pixels; "
                f"the limit is {self._max_pixels}"
            )
        return multiple

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._engine.acquire(timeout=self._wait_timeout_s):
            raise BusyError(
                f"the engine was not free within {self._wait_timeout_s:g} s; try again later",
                retry_after_s=self._retry_after_s(),
            )
        try:
            yield
        finally:
            self._engine.release()

    def _run(self, images: Images) -> Images:
        """Run the session; answers that are no image are errors too."""
        height, width = images.shape[2:]
        try:
            translated = self._session.run(images)
        except Exception as error:  # each runtime raises its own kinds
            log.exception("the engine failed on an image of %d x %d pixels", width, height)
            raise TranslationError(
                f"the engine failed on an image of {width} x {height} pixels; "
                "the server's log says why"
            ) from error
        expected = (1, 3, height * self._model.scale, width * self._model.scale)
        if translated.shape != expected or not np.isfinite(translated).all():
            log.error("the engine made %s of %s", translated.shape, images.shape)
            raise TranslationError(
                f"the engine made no image of one of {width} x {height} pixels "
                f"(shape {translated.shape} for {expected}, or values that are not finite)"
            )
        return translated

    def _full(self) -> BusyError:
        return BusyError(
            f"no place free: {self._places_count} translated or waiting already; try again later",
            retry_after_s=self._retry_after_s(),
        )

    def _retry_after_s(self) -> int:
        """About how long a full queue takes, in whole seconds."""
        return max(1, math.ceil(self._places_count * self._engine_ms.latest_ms() / 1e3))


@contextmanager
def place(places: threading.BoundedSemaphore, refusal: Callable[[], BusyError]) -> Iterator[None]:
    """Take one of a fixed number of places, or be sent away at once.

    Raises:
        BusyError: None is free.
    """
    if not places.acquire(blocking=False):
        raise refusal()
    try:
        yield
    finally:
        places.release()
