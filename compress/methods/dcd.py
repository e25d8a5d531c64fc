"""DCD: compare feature maps through the eyes of the teacher's discriminator.

Hu et al., "Discriminator-Cooperated Feature Map Distillation for GAN Compression", CVPR 2023.
Instead of matching activations pixel by pixel, both generators' activations are projected to image
space by 1x1 connectors and compared in the discriminator's feature space; and the discriminator,
which goes on learning beside the student, gives it an adversarial signal.

The paper's intent, not its released code, where the adversarial term sees the teacher's image (so
that the student gets no gradient), the discriminator's tap never fires for pairs, and the weights
of style and feature change places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.features import counterparts, tap_channels
from compress.loop import Losses, Method, Outputs
from compress.losses import AdversarialMode, generator_loss
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.pix2pix import see
from compress.methods.teaching import Teaching, distillation
from compress.models.families import Discriminator


class DiscriminatorFeatureLoss(nn.Module):
    """Mean absolute difference, in the discriminator's feature space, summed over layers.

    The teacher's connectors are fixed random projections, as in the paper's CycleGAN setting:
    trained ones may agree on a constant.

    Args:
        channels: (teacher's, student's) channels of each layer.
        features: The discriminator up to its feature layer, as a function so that its
            parameters are not this module's to train.
        image_channels: Channels the discriminator takes.
    """

    def __init__(
        self,
        channels: Sequence[tuple[int, int]],
        features: Callable[[Tensor], Tensor],
        image_channels: int,
    ) -> None:
        super().__init__()
        self.features = features
        self.teacher = nn.ModuleList(
            nn.Conv2d(c, image_channels, 1, bias=False).requires_grad_(False) for c, _ in channels
        )
        self.student = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, image_channels, 1, bias=False), nn.BatchNorm2d(image_channels)
            )
            for _, c in channels
        )

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """Compare feature maps, (B, C, H, W) each; the teacher generator gets no gradient."""
        distances = []
        for theirs, ours, project_teacher, project_student in zip(
            teacher, student, self.teacher, self.student, strict=True
        ):
            seen = F.relu(project_student(ours))  # (B, image_channels, H, W)
            with torch.no_grad():
                wanted = self.features(F.relu(project_teacher(theirs)))
            distances.append(F.l1_loss(self.features(seen).float(), wanted.float()))
        return torch.stack(distances).sum()


def dcd(
    teaching: Teaching,
    teacher: nn.Module,
    student: nn.Module,
    *,
    dcd_weight: float = 1.0,
    adversarial_weight: float = 1.0,
    likeness: Likeness = Likeness(style=1e4, feature=10.0),  # noqa: B008  frozen
    look: Look | None = None,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """DCD on top of a teaching with a discriminator.

    Args:
        teaching: The teacher's side; shows the feature maps of ``teacher.taps``.
        teacher: The generator behind it.
        student: Generator that follows; has feature maps of the same sizes.
        dcd_weight: Weight of the comparison (the paper's lambda_CD).
        adversarial_weight: Weight of deceiving the discriminator.
        likeness: Weights of the comparisons of images.
        look: Perceptual features, where a weight needs them.
        mode: Form of the adversarial losses.

    Raises:
        ValueError: The teaching has no discriminator, or the networks do not fit each other.
    """
    discriminator = teaching.discriminator
    if not isinstance(discriminator, Discriminator):
        raise ValueError("dcd looks through a discriminator, and this teaching has none to give")
    layers = counterparts(teacher, student)
    feature_loss = DiscriminatorFeatureLoss(
        tap_channels(teacher, student, layers), discriminator.features, discriminator.channels
    )

    def objective(outputs: Outputs) -> Losses:
        scores = discriminator(see(discriminator, outputs.batch, outputs.student)).float()
        losses = {"adversarial": adversarial_weight * generator_loss(scores, mode)}
        if dcd_weight:
            features = feature_loss(outputs.teacher_features, outputs.student_features)
            losses["dcd"] = dcd_weight * features
        return losses | likeness_losses(outputs, likeness, look)

    return distillation(teaching, student, objective, layers=layers, helpers=feature_loss)
