"""Plain output distillation: the baseline that every paper must beat."""

from __future__ import annotations

from torch import nn

from compress.loop import Losses, Method, Outputs
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.teaching import Teaching, distillation


def l1(
    teaching: Teaching,
    student: nn.Module,
    *,
    likeness: Likeness = Likeness(imitation=100.0),  # noqa: B008  frozen
    look: Look | None = None,
) -> Method:
    """Follow the teacher's images, and the truth where it has a weight.

    Args:
        teaching: The teacher's side.
        student: Generator that follows.
        likeness: Weights; the baseline is the mean absolute difference alone.
        look: Perceptual features, where a weight needs them.
    """

    def objective(outputs: Outputs) -> Losses:
        return likeness_losses(outputs, likeness, look)

    return distillation(teaching, student, objective)
