"""Images as files, for tests of what reads them."""

from __future__ import annotations

import io

from PIL import Image

from deploy.imaging import Pixels


def encode_png(pixels: Pixels) -> bytes:
    """RGB pixels, (H, W, 3), as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
