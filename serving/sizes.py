"""How large the model sees an image: its own size, the model's, or as large as allowed."""

from __future__ import annotations

import math
from typing import Literal, get_args

from deploy.imaging import ImageTooLargeError

Size = Literal["native", "model", "max"]
SIZES: tuple[Size, ...] = get_args(Size)


def plan_size(
    height: int, width: int, wanted: Size, image_size: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width at which an image is translated; its aspect is kept.

    ``native`` is the image's own size. ``model`` makes the longer side ``image_size``, whether that
    shrinks or enlarges: the scale the model was trained at, and the time its budget promises.
    ``max`` shrinks what has more than ``max_pixels`` and leaves everything else alone.

    The answer has this size times the model's scale; nothing is enlarged back, because that adds
    bytes and no detail.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        wanted: Which of the three.
        image_size: Side of the square that the model was made for, in pixels.
        max_pixels: Most that the model may see, padding not counted.

    Raises:
        ImageTooLargeError: The size has more than ``max_pixels``, and ``max`` was not asked for.
    """
    if wanted == "model":
        longer = max(height, width)
        height, width = (max(1, round(side * image_size / longer)) for side in (height, width))
    if height * width <= max_pixels:
        return height, width
    if wanted != "max":
        raise ImageTooLargeError(
            f"image is {width} x {height} = {height * width} pixels; the limit is {max_pixels}; "
            "size=max shrinks it to fit"
        )
    shrink = math.sqrt(max_pixels / (height * width))
    # a sliver's short side cannot shrink below one pixel, so its long side is cut by the limit
    short = max(1, math.floor(min(height, width) * shrink))
    long = min(math.floor(max(height, width) * shrink), max_pixels // short)
    return (long, short) if height > width else (short, long)
