"""GCC: the student's generator and discriminator co-operate, with a teacher pair beside them.

Li et al., "Revisiting Discriminator in GAN Compression: A Generator-discriminator Cooperative
Compression Scheme", NeurIPS 2021 (arXiv 2110.14439). The student plays its own game against a
discriminator whose channels are switched off and on (`compress.methods.gates`), so that neither
side runs away; and it follows feature maps of the teacher's generator *and* of the teacher's
discriminator, both of which go on learning. Where its widths come from is
`compress.pruning.sparsity` and `compress.pruning.bisection`.

The paper's intent, not its released code, where for unpaired data no gradient passes the teacher's
discriminator and its feature maps are those of older images; where gates learn from the images that
the weights learn from; and where the root of a squared difference has no gradient at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.features import counterparts, forward_with_features, tap_channels
from compress.loop import Losses, Method, Outputs, Update
from compress.losses import AdversarialMode, discriminator_loss, generator_loss, gram
from compress.methods.dcd import DiscriminatorFeatureLoss
from compress.methods.gates import Gates, gap, without_gates
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.pix2pix import discriminator_losses, see, truth
from compress.methods.teaching import Teaching, distillation
from compress.models.families import Discriminator
from compress.models.gates import GatedPatchDiscriminator

SMALLEST_SQUARE = 1e-12
"""Added below every root: where student and teacher agree, a root has no gradient."""


class Projections(nn.Module):
    """1x1 convolutions from the student's channels to the teacher's, and nothing else.

    Args:
        channels: (teacher's, student's) channels of each layer.
    """

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(ours, theirs, 1, bias=False) for theirs, ours in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, student's, H, W) each -> (B, teacher's, H, W) each."""
        return [project(x) for project, x in zip(self.layers, features, strict=True)]


def content_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Root mean squared difference of feature maps, summed over layers.

    Args:
        student: (B, C, H, W) each.
        teacher: The same shapes; no gradient flows into them.
    """
    pairs = zip(student, teacher, strict=True)
    return _root_sum([(s.float(), t.detach().float()) for s, t in pairs])


def texture_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The same of Gram matrices: which channels go together, wherever in the image."""
    pairs = zip(student, teacher, strict=True)
    return _root_sum([(gram(s), gram(t.detach())) for s, t in pairs])


def gcc(
    teaching: Teaching,
    teacher: nn.Module,
    student: nn.Module,
    judge: GatedPatchDiscriminator,
    *,
    steps: int,
    content_weight: float = 50.0,
    gram_weight: float = 1e4,
    adversarial_weight: float = 1.0,
    dcd_weight: float = 0.0,
    likeness: Likeness = Likeness(reconstruction=100.0),  # noqa: B008  frozen
    look: Look | None = None,
    every: int = 1,
    gates_every: int = 1,
    gates_pace: float = 0.5,
    mode: AdversarialMode = "hinge",
) -> Method:
    """The third stage of GCC: co-operative training, on top of a teaching with a discriminator.

    The gates learn from held-out batches, and the student's discriminator from a truth (images of
    the other domain, for unpaired data).

    Args:
        teaching: The teacher's side; shows the feature maps of ``teacher.taps``. As the paper has
            it both teachers learn, in lock-step with the student.
        teacher: The generator behind it.
        student: Generator that follows; has feature maps of the same sizes.
        judge: The student's discriminator, of pairs or of images.
        steps: That the training takes.
        content_weight: Weight of `content_loss` (the paper's 50 for pairs, 0.01 unpaired).
        gram_weight: Weight of `texture_loss` (the paper's 1e4 for pairs, 10 unpaired).
        adversarial_weight: Weight of deceiving the student's discriminator.
        dcd_weight: Weight of DCD's comparison through the teacher's discriminator, which is not in
            the paper.
        likeness: Weights of the comparisons of images; the paper's 100 to the truth for pairs.
        look: Perceptual features, where a weight needs them.
        every: Steps between updates of the student's discriminator.
        gates_every: Steps between updates of its gates.
        gates_pace: Learning rate of the gates over that of the weights; the paper's 0.5 is for
            hundreds of thousands of steps.
        mode: Form of the adversarial losses, in both games.

    Raises:
        ValueError: The teaching has no discriminator, or the networks do not fit each other.
    """
    discriminator = teaching.discriminator
    if not isinstance(discriminator, Discriminator):
        raise ValueError(
            "gcc coordinates the student's game with its teacher's, and this teaching has no "
            "discriminator with one head"
        )
    compared = bool(content_weight or gram_weight)
    layers = counterparts(teacher, student) if compared or dcd_weight else ()
    channels = tap_channels(teacher, student, layers) if layers else ()
    projections = Projections(channels if compared else ())
    helpers: list[nn.Module] = [projections]
    compare: DiscriminatorFeatureLoss | None = None
    if dcd_weight:
        compare = DiscriminatorFeatureLoss(channels, discriminator.features, discriminator.channels)
        helpers.append(compare)
    taps = judge_taps(discriminator) if compared else ()
    gates = Gates(judge, updates=max(1, steps // gates_every))

    def both(outputs: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps of the student and those it is to have, of both generators and judges."""
        batch = outputs.batch
        _, seen = forward_with_features(
            discriminator, see(discriminator, batch, outputs.student), taps
        )
        with torch.no_grad():
            # by the discriminator as it is now, of this very image
            _, wanted = forward_with_features(
                discriminator, see(discriminator, batch, outputs.teacher), taps
            )
        ours = projections(outputs.student_features)
        return [*ours, *seen], [*outputs.teacher_features, *wanted]

    def student_objective(outputs: Outputs) -> Losses:
        scores = judge(see(judge, outputs.batch, outputs.student)).float()
        losses = {"adversarial": adversarial_weight * generator_loss(scores, mode)}
        if compared:
            seen, wanted = both(outputs)
            if content_weight:
                losses["content"] = content_weight * content_loss(seen, wanted)
            if gram_weight:
                losses["gram"] = gram_weight * texture_loss(seen, wanted)
        if compare is not None:
            features = compare(outputs.teacher_features, outputs.student_features)
            losses["dcd"] = dcd_weight * features
        return losses | likeness_losses(outputs, likeness, look)

    def judge_objective(outputs: Outputs) -> Losses:
        return discriminator_losses(
            judge, outputs.batch, truth(outputs.batch), outputs.student, mode
        )

    def gates_objective(outputs: Outputs) -> Losses:
        batch = outputs.batch
        with torch.no_grad():
            of_teacher = discriminator(see(discriminator, batch, outputs.teacher)).float()
        of_student = judge(see(judge, batch, outputs.student.detach())).float()
        of_real = judge(see(judge, batch, truth(batch))).float()
        return {
            "capacity": discriminator_loss(of_real, of_student, mode),
            "coordination": gates.coordination(gap(of_teacher, mode), gap(of_student, mode)),
        }

    plain = distillation(
        teaching, student, student_objective, layers=layers, helpers=nn.ModuleList(helpers)
    )
    *theirs, follow = plain.updates
    return replace(
        plain,
        networks={
            **plain.networks,
            "student_discriminator": without_gates(judge),
            "gates": gates,
        },
        updates=(
            *theirs,
            Update("student_discriminator", judge_objective, every=every),
            follow,
            Update(
                "gates",
                gates_objective,
                every=gates_every,
                split="held_out",
                after=gates.settle,
                pace=gates_pace,
                watch=gates.figures,
            ),
        ),
    )


def judge_taps(discriminator: nn.Module) -> tuple[str, ...]:
    """Where GCC looks into a discriminator: behind its second and its fourth activation.

    The released code takes norms, whose output the activation behind them then overwrites.

    Raises:
        ValueError: It has no second one.
    """
    activations = [n for n, m in discriminator.named_modules() if isinstance(m, nn.LeakyReLU)]
    taps = tuple(activations[1:4:2])
    if not taps:
        raise ValueError(
            f"gcc looks behind the second LeakyReLU, and {type(discriminator).__name__} has "
            f"{len(activations)}: take a PatchGAN"
        )
    return taps


def _root_sum(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([(F.mse_loss(a, b) + SMALLEST_SQUARE).sqrt() for a, b in pairs]).sum()
