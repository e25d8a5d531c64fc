"""pix2pix: how a teacher is made (Isola et al., 2017).

A generator and a conditional discriminator alternate; the generator also stays near the truth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, discriminator_loss, generator_loss


def pix2pix(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    adversarial_weight: float = 1.0,
    reconstruction_weight: float = 100.0,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """Train a generator on pairs.

    Args:
        generator: (B, 3, H, W) -> (B, 3, H, W).
        discriminator: Judges pairs, (B, 6, H, W).
        adversarial_weight: Weight of the adversarial loss.
        reconstruction_weight: Weight of the mean absolute difference to the truth.
        mode: Form of the adversarial losses.
    """

    def forward(batch: Batch) -> Outputs:
        image = generator(batch.source)
        return Outputs(batch, teacher=image, student=image)

    def discriminator_objective(outputs: Outputs) -> Losses:
        return discriminator_losses(discriminator, outputs.batch, outputs.student.detach(), mode)

    def generator_objective(outputs: Outputs) -> Losses:
        return generator_losses(
            discriminator,
            outputs.batch,
            outputs.student,
            mode,
            adversarial_weight=adversarial_weight,
            reconstruction_weight=reconstruction_weight,
        )

    return Method(
        networks={"discriminator": discriminator, "generator": generator},
        forward=forward,
        updates=(
            Update("discriminator", discriminator_objective),
            Update("generator", generator_objective),
        ),
    )


def discriminator_losses(
    discriminator: nn.Module, batch: Batch, image: Tensor, mode: AdversarialMode
) -> Losses:
    """A conditional discriminator's loss on the truth and on a detached image, (B, 3, H, W)."""
    real, fake = discriminator(pair(batch, truth(batch))), discriminator(pair(batch, image))
    return {"adversarial": discriminator_loss(real.float(), fake.float(), mode)}


def generator_losses(
    discriminator: nn.Module,
    batch: Batch,
    image: Tensor,
    mode: AdversarialMode,
    *,
    adversarial_weight: float = 1.0,
    reconstruction_weight: float = 100.0,
) -> Losses:
    """A generator's losses on its own image, (B, 3, H, W): deceive, and stay near the truth."""
    fake = discriminator(pair(batch, image))
    return {
        "adversarial": adversarial_weight * generator_loss(fake.float(), mode),
        "reconstruction": reconstruction_weight * F.l1_loss(image.float(), truth(batch)),
    }


def pair(batch: Batch, image: Tensor) -> Tensor:
    """What a conditional discriminator sees: (B, 3, H, W) twice -> (B, 6, H, W)."""
    return torch.cat([batch.source, image.to(batch.source.dtype)], dim=1)


def truth(batch: Batch) -> Tensor:
    """The ground truth of a paired batch.

    Raises:
        ValueError: The batch has none.
    """
    if batch.target is None:
        raise ValueError("this method needs paired batches, and target is None")
    return batch.target
