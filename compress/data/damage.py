"""What spoils a photo: blur, noise, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from deploy import imaging
from deploy.imaging import Pixels


@dataclass(frozen=True)
class Damage:
    """What happens to a photo before it is restored; each range is drawn from uniformly.

    Attributes:
        blur_px: Standard deviation of a Gaussian blur, in pixels.
        noise: Standard deviation of Gaussian noise, in 8-bit levels.
        jpeg_quality: Quality it is saved with at last.
    """

    blur_px: tuple[float, float]
    noise: tuple[float, float]
    jpeg_quality: tuple[int, int]

    def apply(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Blur, add noise, save as JPEG: (H, W, 3) -> (H, W, 3)."""
        blur = ImageFilter.GaussianBlur(rng.uniform(*self.blur_px))
        blurred = np.asarray(Image.fromarray(pixels).filter(blur), dtype=np.float32)
        scale = np.float32(rng.uniform(*self.noise))
        noisy = blurred + scale * rng.standard_normal(pixels.shape, dtype=np.float32)
        buffer = io.BytesIO()
        image = Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        image.save(
            buffer, format="JPEG", quality=int(rng.integers(*self.jpeg_quality, endpoint=True))
        )
        return imaging.decode(buffer.getvalue())
