"""pix2pix: how a teacher is made from pairs (Isola et al., 2017); SRGAN's too (Ledig et al., 2017).

A generator and a discriminator alternate; the generator also stays near the truth. A discriminator
that takes twice an image's channels judges pairs of source and image, as pix2pix's does; one that
takes an image's judges the image alone, as SRGAN's does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, discriminator_loss, generator_loss
from compress.methods.likeness import Look, feature_loss


def pix2pix(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    adversarial_weight: float = 1.0,
    reconstruction_weight: float = 100.0,
    feature_weight: float = 0.0,
    look: Look | None = None,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """Train a generator on pairs.

    Args:
        generator: (B, 3, H, W) -> (B, 3, scale * H, scale * W).
        discriminator: Judges pairs, (B, 6, H, W), or images, (B, 3, H, W).
        adversarial_weight: Weight of the adversarial loss; pix2pix 1, SRGAN 0.001.
        reconstruction_weight: Weight of the mean absolute difference to the truth; 100 and 1.
        feature_weight: Weight of the same of perceptual features; SRGAN's content loss.
        look: The perceptual network, where it has a weight.
        mode: Form of the adversarial losses.
    """

    def forward(batch: Batch) -> Outputs:
        image = generator(batch.source)
        return Outputs(batch, teacher=image, student=image)

    def discriminator_objective(outputs: Outputs) -> Losses:
        batch = outputs.batch
        return discriminator_losses(
            discriminator, batch, truth(batch), outputs.student.detach(), mode
        )

    def generator_objective(outputs: Outputs) -> Losses:
        losses = generator_losses(
            discriminator,
            outputs.batch,
            outputs.student,
            mode,
            adversarial_weight=adversarial_weight,
            reconstruction_weight=reconstruction_weight,
        )
        if feature_weight:
            difference = feature_loss(outputs.batch, outputs.student, truth(outputs.batch), look)
            losses["feature"] = feature_weight * difference
        return losses

    return Method(
        networks={"discriminator": discriminator, "generator": generator},
        forward=forward,
        updates=(
            Update("discriminator", discriminator_objective),
            Update("generator", generator_objective),
        ),
    )


def discriminator_losses(
    discriminator: nn.Module, batch: Batch, real: Tensor, fake: Tensor, mode: AdversarialMode
) -> Losses:
    """A discriminator's loss on real and on fake images, (B, 3, H, W), without their graphs."""
    of_real = discriminator(see(discriminator, batch, real.detach())).float()
    of_fake = discriminator(see(discriminator, batch, fake.detach())).float()
    return {"adversarial": discriminator_loss(of_real, of_fake, mode)}


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
    fake = discriminator(see(discriminator, batch, image))
    return {
        "adversarial": adversarial_weight * generator_loss(fake.float(), mode),
        "reconstruction": reconstruction_weight * F.l1_loss(image.float(), truth(batch)),
    }


def see(discriminator: nn.Module, batch: Batch, image: Tensor) -> Tensor:
    """What a discriminator sees of an image: it alone, or after its source.

    Args:
        discriminator: Takes ``channels`` channels.
        batch: Where the image comes from.
        image: (B, C, H, W).

    Raises:
        ValueError: The discriminator takes neither C nor 2 C channels, or the source has
            another size.
    """
    image = image.to(batch.source.dtype)
    channels = discriminator.channels
    if channels == image.shape[1]:
        return image
    if channels != image.shape[1] + batch.source.shape[1]:
        raise ValueError(
            f"a discriminator of {channels} channels fits neither images ({image.shape[1]}) nor "
            f"pairs ({image.shape[1] + batch.source.shape[1]})"
        )
    if image.shape[2:] != batch.source.shape[2:]:
        raise ValueError(
            f"source {tuple(batch.source.shape[2:])} and image {tuple(image.shape[2:])} make no "
            f"pair; a discriminator of {image.shape[1]} channels judges images alone"
        )
    return torch.cat([batch.source, image], dim=1)


def truth(batch: Batch) -> Tensor:
    """The ground truth of a paired batch; of an unpaired one, images of the other domain.

    Raises:
        ValueError: The batch has none.
    """
    if batch.target is None:
        raise ValueError("this method needs paired batches, and target is None")
    return batch.target
