"""How like another image the student's is: the terms that the papers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.loop import Batch, Losses, Outputs
from compress.losses import ssim_loss, style_loss, total_variation

Look = Callable[[Batch, Tensor], tuple[Tensor, ...]]
"""Perceptual feature maps of an image (B, C, H, W) in [-1, 1], shallow ones first. The batch is for
those who look at the source too: a discriminator of pairs, where there is no perceptual network."""


@dataclass(frozen=True)
class Likeness:
    """The weight of each way to compare; what weighs nothing is not computed.

    Attributes:
        imitation: Mean absolute difference to the teacher's image.
        reconstruction: The same to the truth.
        ssim: One minus the structural similarity to the teacher's image.
        style: Difference of Gram matrices of perceptual features.
        feature: Mean absolute difference of perceptual features.
        total_variation: Of the student's image alone, summed over its pixels.
    """

    imitation: float = 0.0
    reconstruction: float = 0.0
    ssim: float = 0.0
    style: float = 0.0
    feature: float = 0.0
    total_variation: float = 0.0


def likeness_losses(
    outputs: Outputs, weights: Likeness, look: Look | None, teacher: Tensor | None = None
) -> Losses:
    """The student's image compared with a teacher's and with the truth.

    Args:
        outputs: Of the shared forward pass.
        weights: What counts how much.
        look: Perceptual features, where style or feature have a weight.
        teacher: Another teacher's image than ``outputs.teacher``.

    Raises:
        ValueError: A weight needs a truth, or features, that are not there.
    """
    batch, image = outputs.batch, outputs.student.float()
    theirs = (outputs.teacher if teacher is None else teacher).detach().float()
    losses: Losses = {}
    if weights.imitation:
        losses["imitation"] = weights.imitation * F.l1_loss(image, theirs)
    if weights.reconstruction:
        if batch.target is None:
            raise ValueError(
                "this method needs paired batches, and target is None; or reconstruction = 0"
            )
        losses["reconstruction"] = weights.reconstruction * F.l1_loss(image, batch.target)
    if weights.ssim:
        losses["ssim"] = weights.ssim * ssim_loss(image, theirs)
    if weights.style or weights.feature:
        seen, wanted = _both(batch, image, theirs, look)
        if weights.style:
            losses["style"] = weights.style * style_loss(seen, wanted)
        if weights.feature:
            losses["feature"] = weights.feature * _second(seen, wanted)
    if weights.total_variation:
        losses["total_variation"] = weights.total_variation * total_variation(image)
    return losses


def feature_loss(batch: Batch, image: Tensor, reference: Tensor, look: Look | None) -> Tensor:
    """Mean absolute difference of the second perceptual feature maps (relu2_2 of VGG16).

    Raises:
        ValueError: There is nothing to look with.
    """
    return _second(*_both(batch, image, reference, look))


def _both(
    batch: Batch, image: Tensor, reference: Tensor, look: Look | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    if look is None:
        raise ValueError(
            "style and feature compare perceptual features: set perceptual to vgg16, alexnet or "
            "discriminator, or both weights to 0"
        )
    with torch.no_grad():
        wanted = look(batch, reference)
    return look(batch, image), wanted


def _second(seen: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
    layer = min(1, len(seen) - 1)
    return F.l1_loss(seen[layer].float(), wanted[layer].float())
