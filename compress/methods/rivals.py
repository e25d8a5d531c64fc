"""A student and a discriminator of its own play the ordinary game, as pix2pix has it.

DGL's first stage (`compress.methods.dgl`) and the fine-tuning that follows MGGC's pruning
(`compress.methods.mggc`) are this. Other methods have the teacher's discriminator, which learns
from the teacher's images.
"""

from __future__ import annotations

import torch
from torch import nn

from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, generator_loss
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.pix2pix import discriminator_losses, see, truth
from compress.methods.teaching import Adversary
from compress.models.blocks import initialize
from compress.models.families import build, specification


def rivals(
    student: nn.Module,
    discriminator: nn.Module,
    *,
    teacher: nn.Module | None = None,
    adversarial_weight: float = 1.0,
    likeness: Likeness = Likeness(reconstruction=100.0),  # noqa: B008  frozen
    look: Look | None = None,
    real: Adversary = "truth",
    every: int = 1,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """A GAN of a student and its own discriminator, near a truth or a teacher.

    Args:
        student: Generator that learns.
        discriminator: Learns to tell what is real from the student's images.
        teacher: Generator to compare with, where something is; else it is not run.
        adversarial_weight: Weight of deceiving the discriminator.
        likeness: Weights of the comparisons of images; pix2pix's by default.
        look: Perceptual features, where a weight needs them.
        real: What the discriminator calls real: the truth, or the teacher's images.
        every: Steps between updates of the discriminator. (DGL's code takes several of them for
            one of the generator, on CIFAR four.)
        mode: Form of the adversarial losses.

    Raises:
        ValueError: Something is compared with a teacher, and there is none.
    """
    looked_at = real == "teacher" or follows(likeness)
    if looked_at and teacher is None:
        raise ValueError(
            f"{likeness} with real = {real!r} looks at a teacher's images, and no teacher is "
            "given: give one, or keep to reconstruction, total_variation and the truth"
        )

    def forward(batch: Batch) -> Outputs:
        image = student(batch.source)
        if not looked_at or teacher is None:
            return Outputs(batch, teacher=image.detach(), student=image)
        with torch.no_grad():
            return Outputs(batch, teacher=teacher(batch.source), student=image)

    def discriminator_objective(outputs: Outputs) -> Losses:
        batch = outputs.batch
        true = truth(batch) if real == "truth" else outputs.teacher
        return discriminator_losses(discriminator, batch, true, outputs.student, mode)

    def objective(outputs: Outputs) -> Losses:
        losses = likeness_losses(outputs, likeness, look)
        if adversarial_weight:
            scores = discriminator(see(discriminator, outputs.batch, outputs.student)).float()
            losses["adversarial"] = adversarial_weight * generator_loss(scores, mode)
        return losses

    return Method(
        networks={"discriminator": discriminator, "student": student},
        forward=forward,
        updates=(
            Update("discriminator", discriminator_objective, every=every),
            Update("student", objective),
        ),
    )


def rival_of(critic: nn.Module) -> nn.Module:
    """A discriminator of the critic's shape with fresh weights: the student's own, to begin with.

    Raises:
        ValueError: The critic belongs to no family that can be built.
    """
    return initialize(build(specification(critic)))


def follows(likeness: Likeness) -> bool:
    """Whether something is compared with a teacher's image."""
    return bool(likeness.imitation or likeness.ssim or likeness.style or likeness.feature)
