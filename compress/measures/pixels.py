"""PSNR and SSIM of 8-bit images, in RGB and on luma as super-resolution papers report them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from deploy.imaging import Pixels

PSNR_CEILING_DB = 100.0
"""PSNR of equal images: it is infinite, and JSON has no infinity."""

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window, in pixels."""


def psnr(image: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio over all values of two (H, W, 3), in dB.

    Raises:
        ValueError: The sizes differ.
    """
    _same_size(image, reference)
    return _psnr(_planes(image), _planes(reference))


def ssim(image: Pixels, reference: Pixels) -> float:
    """Structural similarity of two (H, W, 3), the mean over channels; 1 is the same image.

    Gaussian window of 11 x 11 and 1.5 (Wang et al., "Image quality assessment: from error
    visibility to structural similarity", 2004), as torchmetrics computes it.

    Raises:
        ValueError: The sizes differ, or are below the window's.
    """
    _same_size(image, reference)
    return _ssim(_planes(image), _planes(reference))


def psnr_y(image: Pixels, reference: Pixels, *, border: int) -> float:
    """PSNR on luma without ``border`` pixels on each side, in dB.

    Raises:
        ValueError: The sizes differ, or nothing is left within the border.
    """
    _same_size(image, reference)
    return _psnr(_luma_plane(image, border), _luma_plane(reference, border))


def ssim_y(image: Pixels, reference: Pixels, *, border: int) -> float:
    """SSIM on luma without ``border`` pixels on each side.

    Raises:
        ValueError: The sizes differ, or what is left within the border is below the window's.
    """
    _same_size(image, reference)
    return _ssim(_luma_plane(image, border), _luma_plane(reference, border))


def luma(pixels: Pixels) -> NDArray[np.float64]:
    """Y of BT.601 in 16..235, (H, W, 3) -> (H, W), not rounded."""
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    return np.asarray(16.0 + pixels.astype(np.float64) @ weights)


def _same_size(image: Pixels, reference: Pixels) -> None:
    if image.shape != reference.shape:
        raise ValueError(
            f"an image of {image.shape[1]} x {image.shape[0]} has a reference of "
            f"{reference.shape[1]} x {reference.shape[0]} pixels"
        )


def _planes(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]


def _luma_plane(pixels: Pixels, border: int) -> Tensor:
    height, width = pixels.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(
            f"nothing of {width} x {height} pixels is left within a border of {border}"
        )
    inner = luma(pixels)[border : height - border, border : width - border]
    return torch.from_numpy(inner.astype(np.float32))[None, None]


def _psnr(image: Tensor, reference: Tensor) -> float:
    ratio = float(peak_signal_noise_ratio(image, reference, data_range=255.0))
    return min(PSNR_CEILING_DB, ratio)


def _ssim(image: Tensor, reference: Tensor) -> float:
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM takes images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"got {image.shape[-1]} x {image.shape[-2]}"
        )
    similarity = structural_similarity_index_measure(image, reference, data_range=255.0)
    assert isinstance(similarity, Tensor)
    return float(similarity)
