"""CRD: the student keeps how the parts of the teacher's image relate to each other.

Zhang et al., "Content Relationship Distillation for GAN Compression", arXiv 2212.11091, 2022.
Rows, columns and patches of the generated image are compared by the distances and angles among
them (`compress.relations`); the teacher's discriminator, which goes on learning, gives the
adversarial signal.

The paper's intent, not its released code: patches are those of one image (released: the colour
planes of single patches of the first image), any batch size, mean over the batch. Rows and columns
are related in interleaved groups (`units`), which is what makes a step affordable without a GPU.
"""

from __future__ import annotations

from torch import nn

from compress.loop import Losses, Method, Outputs
from compress.losses import AdversarialMode, generator_loss
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.pix2pix import see
from compress.methods.teaching import Teaching, distillation
from compress.relations import column_groups, patches, relation_loss, row_groups


def crd(
    teaching: Teaching,
    student: nn.Module,
    *,
    relation_weight: float = 25.0,
    adversarial_weight: float = 1.0,
    likeness: Likeness = Likeness(style=1e4, feature=10.0),  # noqa: B008  frozen
    look: Look | None = None,
    units: int = 64,
    patch: int = 32,
    mode: AdversarialMode = "lsgan",
) -> Method:
    """CRD on top of a teaching, with a discriminator where the adversarial loss has a weight.

    Args:
        teaching: The teacher's side.
        student: Generator that follows.
        relation_weight: Weight of the relations of rows, of columns and of patches, each.
        adversarial_weight: Weight of deceiving the discriminator; the paper's 0 for paired data.
        likeness: Weights of the comparisons of images.
        look: Perceptual features, where a weight needs them.
        units: Most rows, or columns, that are related with each other; 256 is the paper's.
        patch: Height and width of a patch, in pixels.
        mode: Form of the adversarial loss.

    Raises:
        ValueError: The adversarial loss has a weight and the teaching no discriminator.
    """
    discriminator = teaching.discriminator
    if adversarial_weight and discriminator is None:
        raise ValueError("crd's adversarial loss needs a discriminator; or adversarial = 0")

    def objective(outputs: Outputs) -> Losses:
        ours, theirs = outputs.student.float(), outputs.teacher.detach().float()
        losses = {
            "rows": relation_loss(row_groups(ours, units), row_groups(theirs, units)),
            "columns": relation_loss(column_groups(ours, units), column_groups(theirs, units)),
            "patches": relation_loss(patches(ours, patch), patches(theirs, patch)),
        }
        losses = {name: relation_weight * loss for name, loss in losses.items()}
        if adversarial_weight and discriminator is not None:
            scores = discriminator(see(discriminator, outputs.batch, outputs.student)).float()
            losses["adversarial"] = adversarial_weight * generator_loss(scores, mode)
        return losses | likeness_losses(outputs, likeness, look)

    return distillation(teaching, student, objective)
