"""Loss functions: tensors in, scalar out. No weights, no state, no configuration."""

from __future__ import annotations

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
