"""Translate without a server: a bundle's engine in this process, one image at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from deploy import imaging
from deploy.imaging import ImageTooLargeError, Pixels
from deploy.manifests import ModelSpec
from devices.session import Session, open_session
from devices.signature import read_trusted
from serving.formats import Plan, encode_picture, read_picture
from serving.models import read_bundle, start_session
from serving.negotiate import Output
from serving.settings import ServingSettings
from serving.sizes import Size, plan_size
from serving.tiling import tiled_session
from serving.translator import padding_multiple
from serving.work import TranslationError


@dataclass(frozen=True)
class LocalEngine:
    """A warm engine and its limits. Several threads may use it; the engine itself takes turns.

    Attributes:
        session: A warm engine.
        model: What the engine wants of an image.
        image_size: Side of the square that it was made for, in pixels.
        max_pixels: Most that it is given, padding included.
        max_decode_pixels: Most that is decoded, to be shrunk.
    """

    session: Session
    model: ModelSpec
    image_size: int
    max_pixels: int
    max_decode_pixels: int
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def translate(self, data: bytes, output: Output, size: Size) -> bytes:
        """Translate one encoded image.

        Raises:
            ImageError: The bytes are not an image that is accepted, or it is too large.
            TranslationError: The engine made no image of it.
        """
        picture = read_picture(data, max_pixels=self.max_decode_pixels, plan=self._plan(size))
        return encode_picture(picture.answered(self.translate_pixels(picture.pixels)), output)

    def translate_frame(self, pixels: Pixels, size: Size) -> Pixels:
        """Translate ``(H, W, 3)`` at the size that is wanted.

        Raises:
            ImageTooLargeError: More pixels than the limit.
            TranslationError: The engine made no image of it.
        """
        height, width = self._plan(size)(*pixels.shape[:2])
        if (height, width) != pixels.shape[:2]:
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.asarray(image)
        return self.translate_pixels(pixels)

    def translate_pixels(self, pixels: Pixels) -> Pixels:
        """Translate ``(H, W, 3)``; the answer is that times the model's scale.

        Raises:
            ImageTooLargeError: More pixels than the limit, padding included.
            TranslationError: The engine made no image of it.
        """
        height, width = pixels.shape[:2]
        multiple = padding_multiple(self.model, height, width)
        padded = (height + -height % multiple) * (width + -width % multiple)
        if padded > self.max_pixels:
            raise ImageTooLargeError(
                f"image is {width} x {height}, {padded} pixels with the model's padding; "
                f"the limit is {self.max_pixels} (POCKETGAN_MAX_PIXELS)"
            )
        # the turn covers the answer too: a session may write it again in its next run
        with self._turn:
            images = imaging.pad_to_multiple(imaging.to_model(pixels, self.model.pixels), multiple)
            made = self.session.run(images)
            scale = self.model.scale
            expected = (1, 3, images.shape[2] * scale, images.shape[3] * scale)
            if made.shape != expected or not np.isfinite(made).all():
                raise TranslationError(
                    f"the engine made no image of one of {width} x {height} pixels "
                    f"(shape {made.shape} for {expected}, or values that are not finite)"
                )
            made = made[:, :, : height * scale, : width * scale]
            answer: Pixels = imaging.from_model(made, self.model.pixels)[0]
        return answer

    def _plan(self, size: Size) -> Plan:
        return partial(
            plan_size, wanted=size, image_size=self.image_size, max_pixels=self.max_pixels
        )


def open_engine(bundle: Path, settings: ServingSettings) -> LocalEngine:
    """Load a bundle's engine as the server does: verified, warmed up, held to its golden pairs.

    Args:
        bundle: Its folder.
        settings: Pixel limits and trusted keys; the rest is the business of a server.

    Raises:
        BundleError: Not a bundle, damaged, not signed as it must be, or not what was sealed.
        DeviceError: The engine cannot run on this machine.
    """
    trusted = None if settings.trusted_keys is None else read_trusted(settings.trusted_keys)
    opened = read_bundle(bundle, trusted)
    session = tiled_session(
        start_session(opened, open_session),
        opened,
        whole_pixels=settings.whole_pixels,
        map_bytes=settings.map_memory_mib * 2**20,
        map_folder=settings.map_folder,
    )
    return LocalEngine(
        session,
        opened.manifest.model,
        opened.manifest.profile.image_size,
        settings.max_pixels,
        settings.max_decode_pixels,
    )
