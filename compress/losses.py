"""Loss functions: tensors in, scalar out. No weights, no state, no configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AdversarialMode = Literal["hinge", "lsgan", "vanilla"]


def discriminator_loss(real: Tensor, fake: Tensor, mode: AdversarialMode) -> Tensor:
    """What a discriminator minimises, from its scores on real and fake images (any shape)."""
    if mode == "hinge":
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
    score = F.mse_loss if mode == "lsgan" else F.binary_cross_entropy_with_logits
    return 0.5 * (score(real, torch.ones_like(real)) + score(fake, torch.zeros_like(fake)))


def generator_loss(fake: Tensor, mode: AdversarialMode) -> Tensor:
    """What a generator minimises, from the discriminator's scores on its images (any shape)."""
    if mode == "hinge":
        return -fake.mean()
    score = F.mse_loss if mode == "lsgan" else F.binary_cross_entropy_with_logits
    return score(fake, torch.ones_like(fake))


def gram(features: Tensor) -> Tensor:
    """How channels go together: (B, C, H, W) -> (B, C, C), divided by C * H * W."""
    flat = features.float().flatten(2)  # (B, C, H * W)
    with torch.autocast(flat.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def style_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Difference of Gram matrices, summed over layers (Gatys et al., 2016, by absolute value).

    Args:
        student: Feature maps of the student's image, (B, C, H, W) each.
        teacher: The same of the teacher's image.
    """
    pairs = zip(student, teacher, strict=True)
    return torch.stack([F.l1_loss(gram(s), gram(t)) for s, t in pairs]).sum()


def ssim_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the mean structural similarity of two images (Wang et al., 2004).

    The window is the usual 11 x 11 Gaussian of 1.5 pixels with zero padding. Images are brought
    from [-1, 1] to the [0, 1] that the formula's constants are made for, which the released codes
    leave out.

    Args:
        student: (B, C, H, W) in [-1, 1].
        teacher: The same shape.
    """
    channels = student.shape[1]
    at = torch.arange(11, dtype=torch.float32, device=student.device) - 5
    window = torch.softmax(-(at**2) / (2 * 1.5**2), dim=0)

    def blur(x: Tensor) -> Tensor:
        rows = window.view(1, 1, 11, 1).expand(channels, 1, 11, 1)
        columns = window.view(1, 1, 1, 11).expand(channels, 1, 1, 11)
        down = F.conv2d(x, rows, padding=(5, 0), groups=channels)
        return F.conv2d(down, columns, padding=(0, 5), groups=channels)

    # variances are small differences of large numbers: float32 whatever the autocast
    with torch.autocast(student.device.type, enabled=False):
        s, t = (student.float() + 1) / 2, (teacher.float() + 1) / 2
        mean_s, mean_t = blur(s), blur(t)
        both = blur(s * t) - mean_s * mean_t
        spread = blur(s * s) - mean_s**2 + blur(t * t) - mean_t**2
        means = (2 * mean_s * mean_t + 0.01**2) / (mean_s**2 + mean_t**2 + 0.01**2)
        return 1 - (means * (2 * both + 0.03**2) / (spread + 0.03**2)).mean()


def total_variation(images: Tensor) -> Tensor:
    """Absolute differences of neighbours, *summed* over an image as OMGD's weight expects.

    The mean over the batch, so that the weight does not depend on its size: (B, C, H, W) -> ().
    """
    x = images.float()
    down, right = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
    return (down.abs().sum() + right.abs().sum()) / x.shape[0]


def channel_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared difference of each channel's mean over the image, summed over layers (OMGD).

    Args:
        student: Feature maps, (B, C, H, W) each, already with the teacher's channels.
        teacher: The teacher's; no gradient flows into them.
    """
    return torch.stack(
        [
            F.mse_loss(s.float().mean((2, 3)), t.detach().float().mean((2, 3)))
            for s, t in zip(student, teacher, strict=True)
        ]
    ).sum()
