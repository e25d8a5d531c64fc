"""What a calibration set must be, and what should be said about it.

Ranges of activations are taken from these images and from nothing else, so a set that is too small
or shows nothing makes an INT8 engine that is wrong without a word.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.evidence import Calibration
from deploy.imaging import Pixels

FEWEST = 8
"""Images; below this the extremes of activations are a matter of luck."""
ADVISED = 100
"""Images from which NNCF and TensorRT's manuals see little more to gain."""
FLATTEST = 1.0
"""Standard deviation of the 8-bit levels of an image under which it shows nothing."""
NARROWEST = 128
"""Levels between the darkest and the brightest value, of the whole set and of each channel."""
BLOCK = 4
"""Pixels on a side of the blocks whose means are compared; noise on a photo averages out."""
BLOCKS = 12
"""Blocks on a side that an image needs for their correlation to mean anything."""
STRUCTURE = 0.15
"""Correlation of neighbours under which an image shows nothing but noise. Measured: 300 images each
of white noise, uniform and normal, reach 0.14 at 64 pixels, 0.07 at 32 and 128, 0.03 at 256. Crops
of 256 pixels with noise of sigma 24 on them keep at least 0.73 (72 from 6 photos at a quarter of
their size), 0.77 and 0.68 (60 horses, 60 zebras), 0.47 (60 label maps of facades); crops of sky at
full size, 4 of 72, fall to 0."""
LOUD = 64.0
"""Standard deviation in levels from which one image of noise is refused: uniform noise has 74, a
crop of sky with noise of sigma 50 has 50. Quieter ones are refused where most images are such."""
NEAR_BITS = 3
"""Differing bits of 64 up to which two perceptual hashes call two images nearly the same ..."""
NEAR_LEVELS = 6.0
"""... if their thumbnails of 8 x 8 pixels differ by no more than this on average, of 255."""
THUMBNAIL = 8
SHOWN = 3
"""Pairs of near-duplicates that a warning names."""
REMEDY = "choose other calibration images"


def describe_calibration(pixels: Pixels) -> Calibration:
    """What goes into the evidence about a calibration set.

    Args:
        pixels: (N, H, W, 3) uint8.

    Raises:
        ValueError: As `check_calibration`.
    """
    warnings = check_calibration(pixels)
    return Calibration(images=len(pixels), sha256=calibration_digest(pixels), warnings=warnings)


def calibration_digest(pixels: Pixels) -> str:
    """SHA-256 over the shape and the pixels, in order."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def check_calibration(pixels: Pixels) -> tuple[str, ...]:
    """Refuse a calibration set that would quantize a student badly.

    Args:
        pixels: (N, H, W, 3) uint8.

    Returns:
        What is doubtful about a set that will do, in words.

    Raises:
        ValueError: Too few images, the same one twice, one that is flat or random noise, or a set
            without contrast; the message says which.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(
            f"calibration is {pixels.dtype} {pixels.shape}, not uint8 (N, H, W, 3); {REMEDY}"
        )
    if len(pixels) < FEWEST:
        raise ValueError(f"calibration has {len(pixels)} images; it takes {FEWEST}; {REMEDY}")
    seen: dict[str, int] = {}
    for index, image in enumerate(pixels):
        if image.std() < FLATTEST:
            raise ValueError(
                f"calibration image {index} is flat (levels {image.min()} to {image.max()}) and "
                f"says nothing about activations; {REMEDY}"
            )
        first = seen.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), index)
        if first != index:
            raise ValueError(f"calibration images {first} and {index} are the same; {REMEDY}")
    _refuse_noise(pixels)
    darkest, brightest = int(pixels.min()), int(pixels.max())
    if brightest - darkest < NARROWEST:
        raise ValueError(
            f"calibration covers levels {darkest} to {brightest} of 0 to 255, fewer than "
            f"{NARROWEST}; {REMEDY}"
        )
    return (*_few(pixels), *_narrow(pixels), *_alike(pixels))


def structure(image: Pixels) -> float:
    """How much a pixel says about its neighbours: 0 for white noise, near 1 for photos.

    The larger of two correlations: of neighbouring pixels, and of neighbouring means of 4 x 4
    pixels where the image is large enough. The second is for photos that noise was added to.

    Args:
        image: (H, W, 3) uint8.
    """
    grey = image.mean(axis=2)
    found = _correlation(grey)
    if min(grey.shape) >= BLOCK * BLOCKS:
        found = max(
            found, _correlation(_means(grey, grey.shape[0] // BLOCK, grey.shape[1] // BLOCK))
        )
    return found


def _refuse_noise(pixels: Pixels) -> None:
    found = [structure(image) for image in pixels]
    noise = [index for index, value in enumerate(found) if value < STRUCTURE]
    loud = [index for index in noise if pixels[index].std() >= LOUD]
    if loud or 2 * len(noise) > len(pixels):
        index = (loud or noise)[0]
        raise ValueError(
            f"calibration image {index} is random noise (neighbours correlate by "
            f"{found[index]:.2f}, those of a photo by more than {STRUCTURE}; {len(noise)} of "
            f"{len(pixels)} images are such) and has nothing a student will see; {REMEDY}"
        )


def _means(image: NDArray[Any], rows: int, columns: int) -> NDArray[np.float64]:
    """Means over a grid of equal cells; what does not fit at the right and the bottom is cut."""
    high, wide = image.shape[0] // rows, image.shape[1] // columns
    cut = image[: high * rows, : wide * columns].astype(np.float64)
    means: NDArray[np.float64] = cut.reshape(rows, high, columns, wide, *image.shape[2:]).mean(
        axis=(1, 3)
    )
    return means


def _correlation(grey: NDArray[np.float64]) -> float:
    """Between neighbours, across and down together; 1 where everything is the same."""
    centred = grey - grey.mean()
    power = float(np.mean(centred**2))
    if not power:
        return 1.0
    across = centred[:, 1:] * centred[:, :-1]
    down = centred[1:] * centred[:-1]
    return float((across.sum() + down.sum()) / (across.size + down.size) / power)


def _few(pixels: Pixels) -> list[str]:
    if len(pixels) >= ADVISED:
        return []
    return [f"{len(pixels)} images; {ADVISED} are advised"]


def _narrow(pixels: Pixels) -> list[str]:
    ranges = [(int(pixels[..., c].min()), int(pixels[..., c].max())) for c in range(3)]
    return [
        f"{name} covers levels {low} to {high} only"
        for name, (low, high) in zip(("red", "green", "blue"), ranges, strict=True)
        if high - low < NARROWEST
    ]


def _alike(pixels: Pixels) -> list[str]:
    """Pairs that look nearly the same: they count once, whatever the number of images says."""
    if min(pixels.shape[1:3]) <= THUMBNAIL:
        return []
    hashes = np.stack([_hash(image) for image in pixels])  # (N, 64)
    thumbnails = np.stack([_means(i, THUMBNAIL, THUMBNAIL).reshape(-1) for i in pixels])
    pairs = []
    for index in range(1, len(pixels)):
        bits = (hashes[:index] != hashes[index]).sum(axis=1)
        levels = np.abs(thumbnails[:index] - thumbnails[index]).mean(axis=1)
        close = np.flatnonzero((bits <= NEAR_BITS) & (levels <= NEAR_LEVELS))
        pairs += [(int(other), index) for other in close]
    if not pairs:
        return []
    named = ", ".join(f"{first} and {second}" for first, second in pairs[:SHOWN])
    more = f" and {len(pairs) - SHOWN} other pairs" if len(pairs) > SHOWN else ""
    return [f"images {named}{more} are nearly the same"]


def _hash(image: Pixels) -> NDArray[np.bool_]:
    """64 bits: whether each of 8 x 9 cells is darker than the one to its right."""
    cells = _means(image.mean(axis=2), THUMBNAIL, THUMBNAIL + 1)
    return (cells[:, :-1] < cells[:, 1:]).reshape(-1)
