"""The pixel contract: encoded bytes, ``uint8`` pixels, and what the generator sees.

Training, calibration, verification and serving all go through these functions, so there is
one definition of "an image" and no skew between them.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from pydantic import PositiveFloat

from devices.profile import Frozen

Pixels = NDArray[np.uint8]
"""``(H, W, 3)`` or ``(N, H, W, 3)`` RGB, ``0..255``."""

FORMATS = ("JPEG", "PNG", "WEBP")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
"""How files of these formats begin; ``WEBP`` follows ``RIFF`` and a length."""
MAX_PIXELS = 24_000_000
"""Default ceiling: the largest photo of the phones people own."""
ORIENTATION = ExifTags.Base.Orientation
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


class PixelSpec(Frozen):
    """How a generator sees pixels, in and out: what travels in a manifest instead of code.

    A value is ``(level - mean) / std`` for a level of ``0..255``.

    Attributes:
        order: Order of the three channels.
        mean: Level that becomes 0, for red, green and blue (whatever ``order`` is).
        std: Levels that one unit spans, for red, green and blue.
        padding: How an image is extended to the generator's ``size_multiple``.
        rounding: How what the generator made becomes levels again; 0 and 255 are the ends.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (127.5, 127.5, 127.5)
    padding: Literal["reflect"] = "reflect"
    rounding: Literal["half to even"] = "half to even"

    @property
    def width(self) -> float:
        """Largest value less smallest, of the channel where that is most."""
        return 255.0 / min(self.std)


RGB = PixelSpec()
"""What ``compress`` trains: red, green and blue in ``[-1, 1]``."""


def range_spec(low: float, high: float, order: Literal["rgb", "bgr"] = "rgb") -> PixelSpec:
    """The spec of a generator whose values for levels 0 and 255 are ``low`` and ``high``.

    Raises:
        ValueError: ``low`` is not below ``high``, or one of them is not finite.
    """
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"a range is LOW:HIGH, such as -1:1 or 0:1, not {low:g}:{high:g}")
    std = 255.0 / (high - low)
    mean = 0.0 - low * std  # never -0, which JSON would keep
    return PixelSpec(order=order, mean=(mean,) * 3, std=(std,) * 3)


class ImageError(ValueError):
    """The bytes are not an image we accept."""


class ImageFormatError(ImageError):
    """The bytes are of none of the formats we accept."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit; it was not decoded."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode PNG, JPEG or WebP bytes to upright RGB pixels.

    The size is read from the header and checked before any pixel is decoded. EXIF orientation is
    applied; transparency is laid on white; of an animation the first frame counts.

    Raises:
        ImageTooLargeError: The image is larger than ``max_pixels``.
        ImageFormatError: The bytes are of no allowed format.
        ImageError: They do not decode to the end.
    """
    with quiet():
        image = opened(data, max_pixels)
        try:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_on_white(upright), dtype=np.uint8)
        except Exception as error:
            raise ImageError(f"the {image.format} image is damaged: {error}") from error


def inspect(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of what `decode` gives, and that the file is whole, without its pixels.

    Whole means: a JPEG ends as one, the checksums of a PNG hold, a WebP is as long as it says. Only
    where that is in doubt is the image decoded. Damage inside a JPEG or WebP can pass.

    Raises:
        ImageError: As `decode`.
    """
    with quiet():
        image = opened(data, max_pixels)
        # Pillow decodes a PNG to look for an orientation behind the pixels: only if there is one
        may_turn = image.format != "PNG" or any(word in data for word in (b"eXIf", b"exif", b"xmp"))
        try:
            turned = may_turn and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        except Exception as error:  # Pillow's parsers raise many kinds on broken metadata
            raise ImageError(f"the {image.format} image is damaged: {error}") from error
    if not _is_whole(data, image.format):
        decode(data, max_pixels=max_pixels)
    width, height = image.size
    return (width, height) if turned else (height, width)


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image file.

    Raises:
        ImageError: As `decode`; the message names the file.
    """
    try:
        return decode(path.read_bytes(), max_pixels=max_pixels)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


def to_model(pixels: Pixels, spec: PixelSpec = RGB) -> NDArray[np.float32]:
    """``(H, W, 3)`` or ``(N, H, W, 3)`` uint8 -> ``(N, 3, H, W)`` float32 as ``spec`` says.

    Without one the values are in ``[-1, 1]``.
    """
    batch = pixels if pixels.ndim == 4 else pixels[None]
    std, shift = _scaling(spec)
    values = batch.astype(np.float32) / std - shift
    return np.ascontiguousarray(_ordered(values, spec).transpose(0, 3, 1, 2))


def from_model(images: NDArray[np.float32], spec: PixelSpec = RGB) -> Pixels:
    """``(N, 3, H, W)`` float32 as ``spec`` says -> ``(N, H, W, 3)`` uint8, rounded and clipped.

    Without one the values are in ``[-1, 1]``.
    """
    std, shift = _scaling(spec)
    levels = np.rint((_ordered(images.transpose(0, 2, 3, 1), spec) + shift) * std)
    return np.ascontiguousarray(np.clip(levels, 0, 255).astype(np.uint8))


def canonical(images: NDArray[np.float32], spec: PixelSpec) -> NDArray[np.float32]:
    """``(N, 3, H, W)`` as ``spec`` says -> the same images in RGB and ``[-1, 1]``, unrounded.

    So that distances, and the floors they are held to, mean the same for every generator.
    """
    if spec == RGB:
        return images
    std, shift = _scaling(spec)
    levels = (_ordered(images.transpose(0, 2, 3, 1), spec) + shift) * std
    values = levels / np.float32(127.5) - np.float32(1.0)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def pad_to_multiple(images: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    """Extend ``(N, C, H, W)`` at the right and bottom until H and W are multiples of ``multiple``.

    The border is mirrored (repeated where the image is too small for that), so that a generator
    sees no edge that is not in the image.
    """
    height, width = images.shape[2:]
    down, right = -height % multiple, -width % multiple
    if down == right == 0:
        return images
    mode = "reflect" if down < height and right < width else "edge"
    return np.pad(images, ((0, 0), (0, 0), (0, down), (0, right)), mode=mode)  # type: ignore[call-overload,no-any-return]


def _scaling(spec: PixelSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What levels are divided by, and what is then subtracted: one number or one per channel.

    The mean is divided too: ``level / std - mean / std`` is the order in which images have always
    been made here, and float rounding depends on the order.
    """
    std, mean = np.array(spec.std), np.array(spec.mean)
    shift = mean / std
    if (std == std[0]).all() and (shift == shift[0]).all():
        # numpy is several times faster with one number than with one per channel
        std, shift = std[0], shift[0]
    return np.asarray(std, dtype=np.float32), np.asarray(shift, dtype=np.float32)


def _ordered(values: NDArray[np.float32], spec: PixelSpec) -> NDArray[np.float32]:
    """``(..., 3)`` from RGB to the generator's order, or back."""
    return values if spec.order == "rgb" else values[..., ::-1]


@contextmanager
def quiet() -> Iterator[None]:
    """Let no warning of Pillow about an image out."""
    with warnings.catch_warnings():
        # our own, lower limit is checked before decoding
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # of broken metadata in a photo that is otherwise whole, which is no business of ours
        warnings.simplefilter("ignore", UserWarning)
        yield


def opened(data: bytes, max_pixels: int) -> Image.Image:
    """The image of some bytes, its header read and its size checked, nothing decoded.

    Raises:
        ImageTooLargeError: The image is larger than ``max_pixels``.
        ImageFormatError: The bytes are of no allowed format.
        ImageError: The header is damaged.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"image is far larger than the limit of {max_pixels} pixels"
        ) from error
    except Exception as error:  # Pillow's plugins raise many kinds on hostile headers
        if data.startswith(SIGNATURES) and (data[:4] != b"RIFF" or data[8:12] == b"WEBP"):
            raise ImageError(f"the image is damaged ({len(data)} bytes)") from error
        raise ImageFormatError(f"not a {', '.join(FORMATS)} image ({len(data)} bytes)") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"image is {width} x {height} = {width * height} pixels; the limit is {max_pixels}"
        )
    return image


def _is_whole(data: bytes, format_name: str | None) -> bool:
    if format_name == "JPEG":
        # the last scan is followed by an end; in a scan itself neither marker can occur
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if format_name == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little") <= len(data)
    at = 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white, 16 bits become 8."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
