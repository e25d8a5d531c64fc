"""Encoded bytes of a client -> a picture in sRGB -> encoded bytes, whatever the client sent."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy import imaging
from deploy.imaging import ImageError, ImageTooLargeError, Pixels
from serving.colour import to_srgb
from serving.negotiate import Format, Output

SourceFormat = Literal["JPEG", "PNG", "WEBP"]
Plan = Callable[[int, int], tuple[int, int]]
"""From the height and width of an image to those it is wanted at; see `serving.sizes`."""

MAX_SCANS = 100
"""A progressive JPEG has about ten. Each costs as much as the whole image: 57 KB with 2,000 of them
took eight seconds (measured)."""
SCAN_MARKER = 0xDA
NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""The next marker after coded pixels, in which 0xff is followed by 0 or a restart only."""

DRAFT_QUALITY = 2
"""A JPEG that is to be shrunk is decoded at no less than this many times the wanted size."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What an EXIF orientation asks for."""

MAX_SIDE: dict[Format, int] = {"png": 2**31 - 1, "jpeg": 65_535, "webp": 16_383}
"""Largest height and width of a format, in pixels."""

DEFAULT_QUALITY: dict[Format, int] = {"png": 0, "jpeg": 90, "webp": 80}
"""What is used where a client names none; a PNG has none."""


@dataclass(frozen=True)
class Picture:
    """An image as the server works with it: upright, in sRGB, without metadata.

    Attributes:
        pixels: ``(H, W, 3)`` RGB. What is wholly transparent is white, so that nothing hidden
            takes part in the answer.
        alpha: ``(H, W)``, 0 for transparent; None where everything is opaque.
        source: The format it came in.
    """

    pixels: Pixels
    alpha: NDArray[np.uint8] | None
    source: SourceFormat

    def answered(self, pixels: Pixels) -> Picture:
        """What the model made of this picture, with its alpha at the size of ``pixels``."""
        alpha = self.alpha
        if alpha is not None and alpha.shape != pixels.shape[:2]:
            height, width = pixels.shape[:2]
            resized = Image.fromarray(alpha).resize((width, height), Image.Resampling.LANCZOS)
            alpha = np.asarray(resized)
        return Picture(pixels, alpha, self.source)


def read_picture(data: bytes, *, max_pixels: int, plan: Plan | None = None) -> Picture:
    """Decode PNG, JPEG or WebP bytes; whatever they hold, only an `ImageError` comes out.

    Format and size are read from the header and checked before any pixel is decoded. Of an
    animation the first frame counts. Metadata is used (orientation, ICC profile) and dropped;
    where it is damaged, it is ignored.

    Args:
        data: The whole file. What follows the image in it is not looked at.
        max_pixels: Most that is decoded.
        plan: The size that the picture is wanted at; its own if left out. A JPEG that is shrunk
            is decoded at a fraction of its size, which saves most of the time.

    Raises:
        ImageTooLargeError: More than ``max_pixels``, or the plan says so.
        ImageFormatError: The bytes are of no allowed format.
        ImageError: They do not decode to the end, or a JPEG has too many scans.
    """
    with imaging.quiet():
        data = _without_packed_texts(data)
        image = imaging.opened(data, max_pixels)
        width, height = image.size
        wanted = (height, width) if plan is None else plan(height, width)
        source = _source(image)
        if source == "JPEG":
            _check_scans(data)
        try:
            if source == "JPEG" and wanted != (height, width):
                image.draft(None, (DRAFT_QUALITY * wanted[1], DRAFT_QUALITY * wanted[0]))
            image.load()
            orientation = _orientation(image)
            image = to_srgb(image)
            if image.size != wanted[::-1]:
                # Pillow weighs colours by alpha here: what is hidden does not bleed
                image = image.resize(wanted[::-1], Image.Resampling.LANCZOS)
            if orientation in UPRIGHT:
                image = image.transpose(UPRIGHT[orientation])
            return _picture(image, source)
        except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
            raise ImageError(f"the {source} image is damaged: {error}") from error


def encode_picture(picture: Picture, output: Output) -> bytes:
    """Encode a picture as a client wants it, fast rather than small.

    Alpha is kept by PNG and WebP and laid on white for JPEG. The bytes hold no metadata.

    Raises:
        ImageTooLargeError: The format holds no image of this size.
    """
    height, width = picture.pixels.shape[:2]
    if max(height, width) > MAX_SIDE[output.format]:
        raise ImageTooLargeError(
            f"the answer has {width} x {height} pixels and {output.format} holds at most "
            f"{MAX_SIDE[output.format]} a side; ask for format=png"
        )
    if picture.alpha is None:
        image = Image.fromarray(picture.pixels)
    elif output.format == "jpeg":
        image = Image.fromarray(_on_white(picture.pixels, picture.alpha))
    else:
        image = Image.fromarray(np.dstack([picture.pixels, picture.alpha]))
    quality = output.quality if output.quality is not None else DEFAULT_QUALITY[output.format]
    buffer = io.BytesIO()
    if output.format == "png":
        # level 1: a third of the time of the default for a few percent more bytes
        image.save(buffer, format="PNG", compress_level=1)
    elif output.format == "jpeg":
        image.save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    else:
        image.save(buffer, format="WEBP", quality=quality, method=2)
    return buffer.getvalue()


def _source(image: Image.Image) -> SourceFormat:
    """The allowed format of an opened image."""
    if image.format == "PNG":
        return "PNG"
    # Pillow says MPO of a JPEG with a second picture behind the first
    return "WEBP" if image.format == "WEBP" else "JPEG"


def _without_packed_texts(data: bytes) -> bytes:
    """A PNG without its compressed texts, of which Pillow would unpack and keep 64 MB.

    What is damaged stays as it is, for Pillow to say so.
    """
    if not data.startswith(PNG_SIGNATURE) or (b"zTXt" not in data and b"iTXt" not in data):
        return data
    kept, at, since = [], len(PNG_SIGNATURE), 0
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        # the keyword of an international text ends with 0, and 1 then says that it is packed
        if kind == b"zTXt" or (kind == b"iTXt" and b"\0\1" in data[at + 8 : min(end, at + 90)]):
            kept.append(data[since:at])
            since = end
        at = end
    return b"".join([*kept, data[since:]])


def _check_scans(data: bytes) -> None:
    """Count the scans of a JPEG, up to its end.

    Raises:
        ImageError: There are more than anyone needs.
    """
    scans, at = 0, 2
    while marker := NEXT_MARKER.search(data, at):
        kind = marker[1][0]
        if kind == 0xD9:  # the end
            return
        at = marker.end()
        # 0x01 and the start of an image stand alone; every other marker names its length
        if kind not in (0x01, 0xD8):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if kind == SCAN_MARKER:
            scans += 1
            if scans > MAX_SCANS:
                raise ImageError(
                    f"the JPEG image has more than {MAX_SCANS} scans; save it again, "
                    "as baseline or with an ordinary encoder"
                )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or it cannot be read."""
    try:
        value = image.getexif().get(imaging.ORIENTATION, 1)
    except Exception:  # Pillow's parsers raise many kinds on broken metadata
        return 1
    return value if isinstance(value, int) else 1


def _picture(image: Image.Image, source: SourceFormat) -> Picture:
    """Pixels and alpha of an ``RGB`` or ``RGBA`` image."""
    values = np.asarray(image, dtype=np.uint8)
    if image.mode == "RGB":
        return Picture(values, None, source)
    pixels, alpha = values[..., :3].copy(), values[..., 3].copy()
    pixels[alpha == 0] = 255
    return Picture(pixels, alpha, source)


def _on_white(pixels: Pixels, alpha: NDArray[np.uint8]) -> Pixels:
    """``(H, W, 3)`` over white; rounded to the nearest level."""
    weight = alpha[..., None].astype(np.uint16)
    blended = (pixels * weight + 255 * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)
