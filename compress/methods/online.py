"""What OMGD, DCD and CRD share: a teacher's discriminator that goes on learning beside the student.

Every ``discriminator_every`` steps the discriminator learns to tell the truth from the teacher's
image, and (where the teacher is online) the teacher learns against it, as in ordinary GAN
training. Every step the student follows. The papers differ in what the student minimises.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from compress.features import forward_with_features
from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode
from compress.methods.pix2pix import discriminator_losses, generator_losses


def online_distillation(
    teacher: nn.Module,
    student: nn.Module,
    discriminator: nn.Module,
    student_objective: Callable[[Outputs], Losses],
    *,
    helpers: nn.Module | None = None,
    layers: tuple[str, ...] = (),
    discriminator_every: int = 1,
    online_teacher: bool = False,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """Alternate discriminator, teacher (if online) and student.

    Args:
        teacher: Generator to follow; in evaluation mode and without a graph unless online.
        student: Generator that follows.
        discriminator: Judges pairs; learns from the teacher's images, cooperates with the student.
        student_objective: What the student minimises.
        helpers: Modules trained with the student (1x1 connectors and the like).
        layers: Layers both generators have, whose activations the objective needs.
        discriminator_every: Steps between updates of the discriminator and an online teacher.
        online_teacher: Whether the teacher goes on learning from the truth.
        mode: Form of the adversarial losses.
    """

    def forward(batch: Batch) -> Outputs:
        with torch.set_grad_enabled(online_teacher and torch.is_grad_enabled()):
            teacher_image, teacher_features = forward_with_features(teacher, batch.source, layers)
        student_image, student_features = forward_with_features(student, batch.source, layers)
        return Outputs(batch, teacher_image, student_image, teacher_features, student_features)

    def discriminator_objective(outputs: Outputs) -> Losses:
        return discriminator_losses(discriminator, outputs.batch, outputs.teacher.detach(), mode)

    def teacher_objective(outputs: Outputs) -> Losses:
        return generator_losses(discriminator, outputs.batch, outputs.teacher, mode)

    networks: dict[str, nn.Module] = {
        "discriminator": discriminator,
        "student": nn.ModuleList([student] if helpers is None else [student, helpers]),
    }
    updates = [Update("discriminator", discriminator_objective, every=discriminator_every)]
    if online_teacher:
        networks["teacher"] = teacher
        updates.append(Update("teacher", teacher_objective, every=discriminator_every))
    updates.append(Update("student", student_objective))
    return Method(networks=networks, forward=forward, updates=tuple(updates))
