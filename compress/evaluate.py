"""How good a generator's images are, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from compress.data import Pairs, to_tensor
from deploy import imaging
from deploy.artifacts import Quality
from deploy.imaging import Pixels


@dataclass(frozen=True)
class Images:
    """Whole held-back images, (H, W, 3) each, sizes may differ."""

    source: tuple[Pixels, ...]
    target: tuple[Pixels, ...]


def held_back(pairs: Pairs, *, multiple: int) -> Images:
    """The images of a test split at full size, cropped to multiples of ``multiple``."""
    both = [pairs.whole(index, multiple=multiple) for index in range(len(pairs.names))]
    return Images(tuple(source for source, _ in both), tuple(target for _, target in both))


def translate(generator: nn.Module, sources: tuple[Pixels, ...]) -> tuple[Pixels, ...]:
    """Translate images one by one, in evaluation mode, to 8-bit pixels as a user gets them."""
    training = generator.training
    generator.eval()
    try:
        with torch.inference_mode():
            outputs = [generator(to_tensor(source)).numpy() for source in sources]
    finally:
        generator.train(training)
    return tuple(imaging.from_model(output)[0] for output in outputs)


def quality(images: tuple[Pixels, ...], references: tuple[Pixels, ...]) -> Quality:
    """Mean PSNR and SSIM over images, on 8-bit RGB; SSIM with the 11 x 11 Gaussian window of 1.5.

    Source: Wang et al., "Image quality assessment", 2004, as torchmetrics computes it.
    """
    psnr, ssim = [], []
    for image, reference in zip(images, references, strict=True):
        ours, theirs = (
            torch.from_numpy(p.astype(np.float32)).permute(2, 0, 1)[None]
            for p in (image, reference)
        )
        psnr.append(float(peak_signal_noise_ratio(ours, theirs, data_range=255.0)))
        similarity = structural_similarity_index_measure(ours, theirs, data_range=255.0)
        assert isinstance(similarity, torch.Tensor)
        ssim.append(float(similarity))
    return Quality(psnr_db=float(np.mean(psnr)), ssim=float(np.mean(ssim)))
