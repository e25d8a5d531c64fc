"""Whatever colours an image is stored in -> sRGB, and its transparency apart."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image, ImageCms

PROFILE_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space that an ICC profile is about -> Pillow's mode for it."""

USABLE = (("RGB", "RGB"), ("RGB", "L"), ("L", "L"), ("CMYK", "CMYK"))
"""Modes of a profile and of an image that go together."""

LONG_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Grey with 16 bits a pixel, of which Pillow would keep the lower 8 clipped."""

log = logging.getLogger(__name__)


def to_srgb(image: Image.Image) -> Image.Image:
    """A decoded image as ``RGB``, or as ``RGBA`` where something in it is transparent.

    - Grey, palette, 1 bit: spread over three channels.
    - 16 bits: the upper 8.
    - CMYK: by its profile, else by the complement (a JPEG's is taken as inverted, as Adobe's are).
    - An embedded ICC profile is applied (relative colorimetric, black point compensated) and
      dropped. One that is damaged, or about other colours than the image has, is ignored, which
      is what browsers do.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode in LONG_MODES:
        image, alpha = _upper_eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    rgb = _by_profile(image, profile) if isinstance(profile, bytes) and profile else None
    if rgb is None:
        rgb = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        rgb.putalpha(alpha)
    return rgb


def _upper_eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A grey image of 16 bits as ``L``, and where the one transparent level of it is."""
    levels = np.asarray(image).astype(np.uint16)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey, None
    return grey, Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))


def _by_profile(image: Image.Image, data: bytes) -> Image.Image | None:
    """``image`` (``L``, ``RGB`` or ``CMYK``) in sRGB; None where the profile is of no use."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = PROFILE_SPACES.get(profile.profile.xcolor_space.strip())
        if mode is None or (mode, image.mode) not in USABLE:
            log.info("an ICC profile of %s is ignored", profile.profile.xcolor_space)
            return None
        # the description of what most cameras and editors embed; a conversion would change nothing
        if mode == "RGB" and (profile.profile.profile_description or "").startswith("sRGB"):
            return None
        return ImageCms.profileToProfile(
            image.convert(mode),
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception as error:  # Little CMS and its wrapper raise many kinds on hostile profiles
        log.info("a damaged ICC profile is ignored: %s", error)
        return None
