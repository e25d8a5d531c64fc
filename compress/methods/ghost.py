"""GHOST: a student in INT8 learns from itself in float.

Zhang et al., "Guided Hybrid Quantization for Object Detection in Remote Sensing Imagery via
One-to-One Self-Teaching", IEEE TGRS 2023 (arXiv 2301.00131). The quantized network, whose rounding
gradients pass as if it were not there, follows its full-precision self: layer by layer it should be
active where that one is, and a switch, learned from both sides' features, decides for every image
which layers are worth following. Which layers are quantized is `compress.precision_plan`'s part.

The paper's intent, not its released code. There a switch learns from nothing but the loss it
switches, so that the best it can do is to switch everything off; here the share of open switches is
held, and what they learn is where. The paper detects objects; here images are compared, by the
terms that all methods share. Switches are normalised by layer, not over the batch, which may be of
one image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.fake_quant import int8_twin, quantizable
from compress.features import as_generator, tap_channels
from compress.loop import Losses, Method, Outputs
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.teaching import Teaching, distillation

WIDTH = 128
"""Numbers that a switch sees of each side's features; the paper's."""

SURE = 1e-6
"""How near to 0 and 1 a random number may come: its logit must be finite."""


class Switches(nn.Module):
    """For every image and layer, whether that layer is followed; the paper's switch machine.

    Each side's channel means go through a linear layer and a norm; how well the two agree is the
    logit. Features come without their gradients: a student that changes them so that a switch
    closes has learned nothing.

    Args:
        channels: (teacher's, student's) channels of each layer.
    """

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.teacher = nn.ModuleList(_view(theirs) for theirs, _ in channels)
        self.student = nn.ModuleList(_view(ours) for _, ours in channels)

    def forward(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """Feature maps, (B, C, H, W) each -> logits, (layers, B)."""
        logits = []
        for theirs, ours, ask, answer in zip(
            teacher, student, self.teacher, self.student, strict=True
        ):
            asked = ask(theirs.detach().float().mean((2, 3)))  # (B, WIDTH)
            answered = answer(ours.detach().float().mean((2, 3)))
            logits.append((asked * answered).sum(1) / WIDTH**0.5)
        return torch.stack(logits)


def thrown(logits: Tensor) -> Tensor:
    """Switches as drawn: 1 or 0, with the gradient of the probability in between.

    Gumbel's noise for two outcomes and a threshold of one half, so that a switch is open with the
    probability ``sigmoid(logit)`` (Jang et al., 2017); straight through.

    Args:
        logits: Of any shape.
    """
    noise = torch.logit(torch.rand_like(logits).clamp(SURE, 1 - SURE))
    soft = torch.sigmoid(logits + noise)
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How far apart the places are where two feature maps are active: (B,), 0 to 2.

    Attention is the mean of the squares over the channels, as a vector of length 1 (Zagoruyko and
    Komodakis, 2017). The squared distance of the two vectors is summed over the pixels where the
    paper takes the mean, so that a weight means the same for every size of crop.

    Args:
        student: (B, C, H, W).
        teacher: (B, any C, H, W). No gradient flows into it.
    """
    ours, theirs = (
        F.normalize(x.float().square().mean(1).flatten(1), dim=1)  # (B, H * W)
        for x in (student, teacher.detach())
    )
    return (ours - theirs).square().sum(1)


def ghost(
    teaching: Teaching,
    teacher: nn.Module,
    student: nn.Module,
    *,
    int8: Collection[str] | None = None,
    attention_weight: float = 1.0,
    open_share: float = 0.5,
    likeness: Likeness = Likeness(imitation=100.0),  # noqa: B008  frozen
    look: Look | None = None,
) -> Method:
    """A student in fake INT8 that follows a teacher; the paper's is a copy of it in float.

    What the loop sees as the student is `compress.fake_quant.int8_twin`, whose parameters are the
    student's: it is the student that learns, and it stays in float.

    Args:
        teaching: The teacher's side; shows the feature maps of ``teacher.taps``.
        teacher: The generator behind it.
        student: Generator that is quantized; has feature maps of the same sizes.
        int8: Names of the layers in INT8; None for all.
        attention_weight: Weight of the comparison of attention, mean over layers and images.
        open_share: Share of the switches that should be open, between 0 and 1.
        likeness: Weights of the comparisons of images.
        look: Perceptual features, where a weight needs them.

    Raises:
        ValueError: A name that is no layer, or networks that do not fit each other.
    """
    twin = int8_twin(student, quantizable(student) if int8 is None else int8)
    taps = as_generator(student).taps
    switches = Switches(tap_channels(teacher, student, taps))

    def objective(outputs: Outputs) -> Losses:
        losses: Losses = {}
        if attention_weight:
            theirs, ours = outputs.teacher_features, outputs.student_features
            logits = switches(theirs, ours)
            pairs = zip(ours, theirs, strict=True)
            distances = torch.stack([attention_distance(x, y) for x, y in pairs])  # (layers, B)
            open_now = torch.sigmoid(logits).mean()
            losses["attention"] = attention_weight * (thrown(logits) * distances).mean()
            losses["switches"] = attention_weight * (open_now - open_share).square()
        return losses | likeness_losses(outputs, likeness, look)

    return distillation(teaching, twin, objective, layers=taps, helpers=switches)


def _view(channels: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, WIDTH), nn.LayerNorm(WIDTH))
