"""DCD: compare feature maps through the eyes of the teacher's discriminator.

Hu et al., "Discriminator-Cooperated Feature Map Distillation for GAN Compression", CVPR 2023.
Instead of matching activations pixel by pixel, both generators' activations are projected to image
space by 1x1 connectors and compared in the discriminator's feature space; and the discriminator,
which goes on learning beside the student, gives it an adversarial signal.

The paper's intent, not its released code, where the adversarial term sees the teacher's image (so
that the student gets no gradient) and the discriminator's tap never fires. Two deviations: what the
paper measures with VGG features (style, feature) is here the mean absolute difference to the
teacher's image and to the truth; and the teacher starts trained, so it is frozen by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.features import forward_with_features
from compress.loop import Losses, Method, Outputs
from compress.losses import AdversarialMode, generator_loss
from compress.methods.l1 import image_losses
from compress.methods.online import online_distillation
from compress.methods.pix2pix import pair
from compress.models.discriminators import PatchDiscriminator


class DiscriminatorFeatureLoss(nn.Module):
    """Mean absolute difference, in the discriminator's feature space, summed over layers.

    The teacher's connectors are fixed random projections, as in the paper's CycleGAN setting:
    trained ones may agree on a constant.

    Args:
        channels: ``{layer: (teacher_channels, student_channels)}``.
        features: The discriminator up to its feature layer, as a function so that its
            parameters are not this module's to train.
        image_channels: Channels the discriminator takes.
    """

    def __init__(
        self,
        channels: Mapping[str, tuple[int, int]],
        features: Callable[[Tensor], Tensor],
        image_channels: int,
    ) -> None:
        super().__init__()
        self.features = features
        self.layers = tuple(channels)
        # lists, not dicts: layer names contain dots, which ModuleDict refuses
        self.teacher = nn.ModuleList(
            nn.Conv2d(c, image_channels, 1, bias=False).requires_grad_(False)
            for c, _ in channels.values()
        )
        self.student = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, image_channels, 1, bias=False), nn.BatchNorm2d(image_channels)
            )
            for _, c in channels.values()
        )

    def forward(self, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> Tensor:
        """Compare activations ``{layer: (B, C, H, W)}``; the teacher generator gets no gradient."""
        distances = []
        for layer, project_teacher, project_student in zip(
            self.layers, self.teacher, self.student, strict=True
        ):
            seen = F.relu(project_student(student[layer]))  # (B, image_channels, H/4, W/4)
            with torch.no_grad():
                wanted = self.features(F.relu(project_teacher(teacher[layer])))
            distances.append(F.l1_loss(self.features(seen).float(), wanted.float()))
        return torch.stack(distances).sum()


def dcd(
    teacher: nn.Module,
    student: nn.Module,
    discriminator: PatchDiscriminator,
    *,
    layers: tuple[str, ...],
    dcd_weight: float = 1.0,
    adversarial_weight: float = 1.0,
    imitation_weight: float = 10.0,
    reconstruction_weight: float = 0.0,
    discriminator_every: int = 1,
    online_teacher: bool = False,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """DCD on top of online distillation.

    Args:
        teacher: Generator to follow.
        student: Generator that follows; has the same layers, of any width.
        discriminator: The teacher's, judging pairs.
        layers: Layers whose activations are compared.
        dcd_weight: Weight of the comparison (the paper's lambda_CD).
        adversarial_weight: Weight of deceiving the discriminator.
        imitation_weight: Weight of the difference to the teacher's image.
        reconstruction_weight: Weight of the difference to the truth.
        discriminator_every: Steps between updates of the discriminator and an online teacher.
        online_teacher: Whether the teacher goes on learning.
        mode: Form of the adversarial losses.
    """
    feature_loss = DiscriminatorFeatureLoss(
        _channels(teacher, student, layers), discriminator.features, discriminator.channels
    )

    def student_objective(outputs: Outputs) -> Losses:
        scores = discriminator(pair(outputs.batch, outputs.student)).float()
        features = feature_loss(outputs.teacher_features, outputs.student_features)
        return {
            "adversarial": adversarial_weight * generator_loss(scores, mode),
            "dcd": dcd_weight * features,
            **image_losses(
                outputs,
                imitation_weight=imitation_weight,
                reconstruction_weight=reconstruction_weight,
            ),
        }

    return online_distillation(
        teacher,
        student,
        discriminator,
        student_objective,
        helpers=feature_loss,
        layers=layers,
        discriminator_every=discriminator_every,
        online_teacher=online_teacher,
        mode=mode,
    )


def _channels(
    teacher: nn.Module, student: nn.Module, layers: tuple[str, ...]
) -> dict[str, tuple[int, int]]:
    """Channels of each layer in both networks, from a dry run rather than from a formula."""
    probe = torch.zeros(1, 3, 64, 64)
    modes = teacher.training, student.training
    teacher.eval(), student.eval()
    with torch.no_grad():
        _, theirs = forward_with_features(teacher, probe, layers)
        _, ours = forward_with_features(student, probe, layers)
    teacher.train(modes[0]), student.train(modes[1])
    return {layer: (theirs[layer].shape[1], ours[layer].shape[1]) for layer in layers}
