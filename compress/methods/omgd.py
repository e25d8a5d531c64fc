"""OMGD: a student without a discriminator of its own follows one or two teachers.

Ren et al., "Online Multi-Granularity Distillation for GAN Compression", ICCV 2021. The wider
teacher shows its image and, channel by channel, what its layers answer on average; a deeper teacher
shows its image. Both may be finished or, as the paper has it, learn while the student follows.

The paper's intent: layers are matched in the order they are declared (released: by substrings of
their names), and structural similarity is computed on [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.features import counterparts, forward_with_features, tap_channels
from compress.loop import Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, channel_loss, discriminator_loss, generator_loss
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.pix2pix import see, truth
from compress.methods.teaching import Shown, Teaching, distillation
from compress.models.discriminators import SharedPatchDiscriminator

PAPER = Likeness(ssim=10.0, style=1e4, feature=10.0, total_variation=1e-5)


class Connectors(nn.Module):
    """1x1 convolutions from the student's channels to the teacher's, normalised and rectified.

    Args:
        channels: (teacher's, student's) channels of each layer.
    """

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs), nn.ReLU())
            for theirs, ours in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, student's, H, W) each -> (B, teacher's, H, W) each."""
        return [connect(x) for connect, x in zip(self.layers, features, strict=True)]


def omgd(
    teaching: Teaching,
    teacher: nn.Module,
    student: nn.Module,
    *,
    channel_weight: float = 100.0,
    likeness: Likeness = PAPER,
    look: Look | None = None,
) -> Method:
    """OMGD on top of a teaching.

    Args:
        teaching: The teacher's side; shows the feature maps of ``teacher.taps`` and, as the image
            ``deeper``, a second teacher's translation if it has one.
        teacher: The (wider) generator behind it.
        student: Generator that follows; has feature maps of the same sizes.
        channel_weight: Weight of the channels' means (lambda_CD; the paper's 10 to 1000 by data).
        likeness: Weights of the comparisons with each teacher's image.
        look: Perceptual features, where a weight needs them.
    """
    layers = counterparts(teacher, student)
    connectors = Connectors(tap_channels(teacher, student, layers))

    def objective(outputs: Outputs) -> Losses:
        losses = likeness_losses(outputs, likeness, look)
        for name, image in outputs.images.items():
            more = likeness_losses(outputs, likeness, look, teacher=image)
            losses |= {f"{key}_{name}": loss for key, loss in more.items()}
        if channel_weight:
            ours = connectors(outputs.student_features)
            losses["channel"] = channel_weight * channel_loss(ours, outputs.teacher_features)
        return losses

    return distillation(teaching, student, objective, layers=layers, helpers=connectors)


def wider_and_deeper(
    wider: nn.Module,
    deeper: nn.Module,
    discriminator: SharedPatchDiscriminator,
    layers: Sequence[str],
    *,
    every: int = 1,
    reconstruction_weight: float = 100.0,
    mode: AdversarialMode = "hinge",
) -> Teaching:
    """Two teachers that learn from pairs against one discriminator with a head for each.

    Args:
        wider: Shows image and feature maps.
        deeper: Shows its image.
        discriminator: Judges pairs; its first layers are shared by both.
        layers: Layers of the wider teacher that the student's objective looks at.
        every: Steps between updates of the teachers and their discriminator.
        reconstruction_weight: Weight of each teacher's mean absolute difference to the truth.
        mode: Form of the adversarial losses.
    """

    def show(source: Tensor) -> Shown:
        image, features = forward_with_features(wider, source, layers)
        return Shown(image, features, {"deeper": deeper(source)})

    def images(outputs: Outputs) -> tuple[Tensor, Tensor]:
        return outputs.teacher, outputs.images["deeper"]

    def discriminator_objective(outputs: Outputs) -> Losses:
        losses, batch = {}, outputs.batch
        for head, (name, image) in enumerate(
            zip(("wider", "deeper"), images(outputs), strict=True)
        ):
            real, fake = (
                discriminator(see(discriminator, batch, x), head=head).float()
                for x in (truth(batch), image.detach())
            )
            losses[f"adversarial_{name}"] = discriminator_loss(real, fake, mode)
        return losses

    def objective(head: int, outputs: Outputs) -> Losses:
        image, batch = images(outputs)[head], outputs.batch
        scores = discriminator(see(discriminator, batch, image), head=head).float()
        distance = torch.nn.functional.l1_loss(image.float(), truth(batch))
        return {
            "adversarial": generator_loss(scores, mode),
            "reconstruction": reconstruction_weight * distance,
        }

    return Teaching(
        show,
        {"discriminator": discriminator, "teacher": wider, "deeper": deeper},
        (
            Update("discriminator", discriminator_objective, every=every),
            Update("teacher", lambda outputs: objective(0, outputs), every=every),
            Update("deeper", lambda outputs: objective(1, outputs), every=every),
        ),
        discriminator,
    )
