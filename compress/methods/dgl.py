"""DGL: the teacher's discriminator, which learns no more, is a second critic of the student.

Tian et al., "DGL-GAN: Discriminator Guided Learning for GAN Compression", arXiv 2112.06502, 2021.
The student has a discriminator of its own, which learns from the truth and from the student's
images as in any GAN; and it must please the teacher's discriminator, too, which is trained and
stands still: min over G of M(G, D) + alpha M(G, D of the teacher). Nothing is taken from the
teacher generator. The paper trains in two stages, first without the second critic and then with
it: two methods with the same networks, see `dgl` and `guided`.

The paper makes images from noise. Ours translate: critics see what `see` shows them, and the
objective stays near the truth, as pix2pix's. Because the second critic is one more loss and one
more network that stands still, `guided` adds it to any method whose student makes images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.loop import Batch, Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, generator_loss
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.pix2pix import discriminator_losses, see, truth
from compress.methods.teaching import Adversary
from compress.models.blocks import initialize
from compress.models.discriminators import SharedPatchDiscriminator
from compress.models.families import build, specification

ALPHA = 0.1
"""Weight of the second critic in the paper."""


def dgl(
    student: nn.Module,
    discriminator: nn.Module,
    critic: nn.Module,
    *,
    teacher: nn.Module | None = None,
    guidance: float = ALPHA,
    adversarial_weight: float = 1.0,
    likeness: Likeness = Likeness(reconstruction=100.0),  # noqa: B008  frozen
    look: Look | None = None,
    real: Adversary = "truth",
    every: int = 1,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """A GAN of the student and its own discriminator, guided by the teacher's.

    With ``guidance`` = 0 this is the paper's first stage, otherwise its second: the same student
    and discriminator go from one into the other.

    Args:
        student: Generator that learns.
        discriminator: The student's own, from `rival_of` if it begins; learns to tell what is real
            from the student's images.
        critic: The teacher's, trained. Copied, so that it may go on learning elsewhere.
        teacher: Generator to compare with, where something is; None: it is never run.
        guidance: Weight of the critic's adversarial loss (the paper's alpha); 0: no critic.
        adversarial_weight: Weight of deceiving the student's own discriminator.
        likeness: Weights of the comparisons of images.
        look: Perceptual features, where a weight needs them.
        real: What the discriminator calls real: the truth, or the teacher's images.
        every: Steps between updates of the discriminator. (The paper's code takes several of them
            for one of the generator, on CIFAR four.)
        mode: Form of the adversarial losses. The paper's is the hinge, which is without bound: a
            critic that stands still pays a student for ever more of what it once took for real.

    Raises:
        ValueError: Something is compared with a teacher, and there is none; or as `guided`.
    """
    if teacher is None and (real == "teacher" or follows(likeness)):
        raise ValueError(
            f"{likeness} with real = {real!r} looks at a teacher's images, and dgl was given no "
            "teacher: give it one, or keep to reconstruction, total_variation and the truth"
        )

    def forward(batch: Batch) -> Outputs:
        image = student(batch.source)
        if teacher is None:
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

    method = Method(
        networks={"discriminator": discriminator, "student": student},
        forward=forward,
        updates=(
            Update("discriminator", discriminator_objective, every=every),
            Update("student", objective),
        ),
    )
    return guided(method, critic, weight=guidance, mode=mode) if guidance else method


def guided(
    method: Method,
    critic: nn.Module,
    *,
    weight: float = ALPHA,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """The same method, whose student must please a critic that learns no more, too.

    Args:
        method: Any with an update of ``student``; what it compares otherwise stays as it is.
        critic: A trained discriminator of pairs or of images. Copied now: where the method's own
            discriminator begins with the same weights, that one goes on alone. The copy is the
            method's network ``critic``, which no update names.
        weight: Of the critic's adversarial loss; the paper's alpha.
        mode: Form of that loss.

    Raises:
        ValueError: The method has no student to guide, or is guided already; or the critic judges
            with several heads.
    """
    if "critic" in method.networks:
        raise ValueError("this method has a critic already: guide it once, with the sum of weights")
    if not any(update.network == "student" for update in method.updates):
        names = ", ".join(repr(update.network) for update in method.updates)
        raise ValueError(f"a critic guides updates of 'student', and this method has {names} only")
    if isinstance(critic, SharedPatchDiscriminator):
        raise ValueError(
            f"a discriminator with {critic.heads} heads judges as many teachers and guides no "
            "student: name one with a single head, such as a patchgan"
        )
    still = _standing_still(critic)

    def with_guidance(objective: Callable[[Outputs], Losses]) -> Callable[[Outputs], Losses]:
        def guided_objective(outputs: Outputs) -> Losses:
            scores = still(see(still, outputs.batch, outputs.student)).float()
            return objective(outputs) | {"guidance": weight * generator_loss(scores, mode)}

        return guided_objective

    return replace(
        method,
        networks={**method.networks, "critic": still},
        updates=tuple(
            replace(update, objective=with_guidance(update.objective))
            if update.network == "student"
            else update
            for update in method.updates
        ),
    )


def rival_of(critic: nn.Module) -> nn.Module:
    """A discriminator of the critic's shape with fresh weights: the student's own, to begin with.

    Raises:
        ValueError: The critic belongs to no family that can be built.
    """
    return initialize(build(specification(critic)))


def _standing_still(critic: nn.Module) -> nn.Module:
    """A copy that nothing moves, neither weights nor statistics."""
    still = copy.deepcopy(critic).requires_grad_(False).train()
    for module in still.modules():
        if isinstance(module, _BatchNorm):
            # it judges by the statistics of a batch, as it was trained to, and keeps none of them
            module.momentum = 0.0
    return still


def follows(likeness: Likeness) -> bool:
    """Whether something is compared with a teacher's image."""
    return bool(likeness.imitation or likeness.ssim or likeness.style or likeness.feature)
