"""The teacher's side of a distillation: what the student follows, and how that goes on learning.

Every paper here has one of a few teachers: frozen; frozen with a discriminator that goes on
learning beside the student; or learning too. The papers differ in what the student minimises, so
a method is a `Teaching` and an objective, put together by `distillation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from compress.features import forward_with_features
from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode
from compress.methods.pix2pix import discriminator_losses, generator_losses, truth

Adversary = Literal["truth", "teacher"]
"""What the discriminator calls real: the truth, against the teacher's images; or the teacher's
images, against the student's, which needs no truth and no discriminator of the teacher's."""


@dataclass(frozen=True)
class Shown:
    """What the teacher makes of a batch.

    Attributes:
        image: Its translation, (B, C, H, W) in [-1, 1].
        features: Feature maps of that pass, in the order of the taps.
        images: Other teachers' translations, by name.
    """

    image: Tensor
    features: tuple[Tensor, ...] = ()
    images: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Teaching:
    """Who teaches.

    Attributes:
        show: From a batch's source to what the student follows.
        networks: Networks of the teacher's side; empty where nothing but the student learns.
        updates: Their updates, in order.
        discriminator: Judges the student too; None where no paper needs one.
    """

    show: Callable[[Tensor], Shown]
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    updates: Sequence[Update] = ()
    discriminator: nn.Module | None = None


def distillation(
    teaching: Teaching,
    student: nn.Module,
    objective: Callable[[Outputs], Losses],
    *,
    layers: Sequence[str] = (),
    helpers: nn.Module | None = None,
) -> Method:
    """Alternate the teacher's updates with the student's.

    Args:
        teaching: The teacher's side.
        student: Generator that follows.
        objective: What it minimises.
        layers: Layers of the student whose feature maps the objective needs.
        helpers: Modules trained with the student (1x1 connectors and the like).
    """

    def forward(batch: Batch) -> Outputs:
        shown = teaching.show(batch.source)
        image, features = forward_with_features(student, batch.source, layers)
        return Outputs(batch, shown.image, image, shown.features, features, shown.images)

    together = nn.ModuleList([student] if helpers is None else [student, helpers])
    return Method(
        networks={**teaching.networks, "student": together},
        forward=forward,
        updates=(*teaching.updates, Update("student", objective)),
    )


def frozen(
    teacher: nn.Module, layers: Sequence[str] = (), *, deeper: nn.Module | None = None
) -> Teaching:
    """A finished teacher and nobody else (and, for OMGD, a second, deeper one)."""

    def show(source: Tensor) -> Shown:
        with torch.no_grad():
            image, features = forward_with_features(teacher, source, layers)
            others = {} if deeper is None else {"deeper": deeper(source)}
        return Shown(image, features, others)

    return Teaching(show)


def judged(
    teacher: nn.Module,
    discriminator: nn.Module,
    layers: Sequence[str] = (),
    *,
    every: int = 1,
    online: bool = False,
    adversary: Adversary = "truth",
    adversarial_weight: float = 1.0,
    reconstruction_weight: float = 100.0,
    mode: AdversarialMode = "lsgan",
) -> Teaching:
    """A teacher with a discriminator that goes on learning beside the student.

    Args:
        teacher: Generator to follow; in evaluation mode and without a graph unless online.
        discriminator: Learns from the teacher's images, cooperates with the student.
        layers: Layers of the teacher that the student's objective looks at.
        every: Steps between updates of the discriminator and of an online teacher.
        online: Whether the teacher goes on learning, from the truth.
        adversary: What the discriminator calls real.
        adversarial_weight: Weight of an online teacher's adversarial loss.
        reconstruction_weight: Weight of its mean absolute difference to the truth.
        mode: Form of the adversarial losses.

    Raises:
        ValueError: A teacher cannot learn from its own images.
    """
    if online and adversary == "teacher":
        raise ValueError(
            "an online teacher learns from a truth, and here the discriminator learns the "
            "teacher's images: leave online_teacher out, or give paired data and a discriminator"
        )

    def show(source: Tensor) -> Shown:
        with torch.set_grad_enabled(online and torch.is_grad_enabled()):
            return Shown(*forward_with_features(teacher, source, layers))

    def discriminator_objective(outputs: Outputs) -> Losses:
        batch, theirs = outputs.batch, outputs.teacher.detach()
        real, fake = (
            (truth(batch), theirs) if adversary == "truth" else (theirs, outputs.student.detach())
        )
        return discriminator_losses(discriminator, batch, real, fake, mode)

    def teacher_objective(outputs: Outputs) -> Losses:
        return generator_losses(
            discriminator,
            outputs.batch,
            outputs.teacher,
            mode,
            adversarial_weight=adversarial_weight,
            reconstruction_weight=reconstruction_weight,
        )

    networks = {"discriminator": discriminator}
    updates = [Update("discriminator", discriminator_objective, every=every)]
    if online:
        networks["teacher"] = teacher
        updates.append(Update("teacher", teacher_objective, every=every))
    return Teaching(show, networks, tuple(updates), discriminator)
