"""Plain output distillation: the baseline that every paper must beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.methods.pix2pix import truth


def l1(
    teacher: nn.Module,
    student: nn.Module,
    *,
    imitation_weight: float = 100.0,
    reconstruction_weight: float = 0.0,
) -> Method:
    """Follow a frozen teacher's images, and the truth where it has a weight.

    Args:
        teacher: Generator to follow; in evaluation mode, without a graph.
        student: Generator that follows.
        imitation_weight: Weight of the mean absolute difference to the teacher's image.
        reconstruction_weight: Weight of the same to the truth; 0 needs no truth.
    """

    def forward(batch: Batch) -> Outputs:
        with torch.no_grad():
            image = teacher(batch.source)
        return Outputs(batch, teacher=image, student=student(batch.source))

    def objective(outputs: Outputs) -> Losses:
        return image_losses(
            outputs,
            imitation_weight=imitation_weight,
            reconstruction_weight=reconstruction_weight,
        )

    return Method({"student": student}, forward, (Update("student", objective),))


def image_losses(
    outputs: Outputs, *, imitation_weight: float, reconstruction_weight: float
) -> Losses:
    """Mean absolute difference of the student's image to the teacher's and to the truth."""
    image = outputs.student.float()
    losses = {}
    if imitation_weight:
        distance = F.l1_loss(image, outputs.teacher.detach().float())
        losses["imitation"] = imitation_weight * distance
    if reconstruction_weight:
        losses["reconstruction"] = reconstruction_weight * F.l1_loss(image, truth(outputs.batch))
    return losses
