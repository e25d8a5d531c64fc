"""Data-free distillation: a synthesizer invents the images that the student learns from.

Three papers that fit into each other, all of them about classification and segmentation:

- DFAD (Fang et al., "Data-Free Adversarial Distillation", arXiv 1912.11006, 2019): the student
  closes the gap to its teacher on invented images, the synthesizer invents images that widen it.
- DDAD (Zhao et al., arXiv 2104.05382, 2021): they shall also leave the statistics inside the
  teacher that its training images left there (`compress.methods.statistics`).
- MAD (Do et al., "Momentum Adversarial Distillation", NeurIPS 2022, arXiv 2209.10359): the student
  learns from images of a moving average of the synthesizer, too, which still invents what the
  synthesizer has turned away from.

Ours is that the networks translate images: the gap is that of two images, and what is invented
are sources. Nobody has published that, so call results experimental.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.ema import average_of
from compress.loop import Batch, BatchAt, Losses, Method, Outputs, Update
from compress.methods.likeness import Likeness, Look, likeness_losses
from compress.methods.statistics import forward_with_inputs, remembered, statistics_loss
from compress.models.modes import evaluating
from compress.models.synthesizer import STRIDE, Synthesizer, noise_map


def data_free(
    teacher: nn.Module,
    student: nn.Module,
    synthesizer: Synthesizer,
    *,
    discrepancy_weight: float = 1.0,
    statistics_weight: float = 0.0,
    smoothness_weight: float = 0.0,
    momentum: float = 0.0,
    synthesizer_every: int = 5,
    likeness: Likeness = Likeness(imitation=1.0),  # noqa: B008  frozen
    look: Look | None = None,
) -> Method:
    """Distill a finished teacher without any image; batches are `noise_batches`.

    With ``statistics_weight`` and ``momentum`` 0 this is DFAD; one makes it DDAD, the other MAD.

    Args:
        teacher: Generator to follow. It is in evaluation mode whenever it runs here.
        student: Generator that follows.
        synthesizer: Invents sources.
        discrepancy_weight: Weight of the gap that the synthesizer widens: log(1 + mean absolute
            difference), which is DFAD's for dense outputs.
        statistics_weight: Weight of the teacher's BatchNorm statistics (DDAD).
        smoothness_weight: Weight of the mean absolute difference of neighbouring pixels of invented
            images; in no paper.
        momentum: Share of the synthesizer's average that stays at each of its updates (MAD); 0:
            no average, and the student sees the synthesizer's images only.
        synthesizer_every: Steps of the student for each of the synthesizer; DFAD's 5.
        likeness: How the student is compared with the teacher. DFAD's is imitation.
        look: Perceptual features, where a weight needs them.

    Raises:
        ValueError: A truth is asked for, or statistics that the teacher does not have.
    """
    if likeness.reconstruction:
        raise ValueError(
            f"reconstruction = {likeness.reconstruction:g} compares with a truth, and nobody knows "
            "that of an invented image: leave it out"
        )
    memories = remembered(teacher) if statistics_weight else ()
    if statistics_weight and not memories:
        raise ValueError(
            f"statistics = {statistics_weight:g} asks for what BatchNorm remembers of the training "
            f"images, and this {type(teacher).__name__} remembers nothing (its norms are "
            "InstanceNorm, or their statistics were fixed): set statistics = 0, which is DFAD, or "
            'take a teacher of norm = "batch" and batch_statistics = "batch"'
        )
    layers = [memory.layer for memory in memories]
    average = average_of(synthesizer, momentum) if momentum else None

    def forward(batch: Batch) -> Outputs:
        invented = synthesizer(batch.source)
        seen = invented.detach()
        if average is not None:
            with torch.no_grad():
                # minus the noise is noise as well, and not the same image again
                seen = torch.cat([seen, average(-batch.source)])
        with torch.no_grad(), evaluating(teacher):
            image = teacher(seen)
        return Outputs(Batch(seen), image, student(seen), images={"invented": invented})

    def close_the_gap(outputs: Outputs) -> Losses:
        return likeness_losses(outputs, likeness, look)

    def widen_the_gap(outputs: Outputs) -> Losses:
        invented = outputs.images["invented"]
        # as the student will be used; and its statistics are not the synthesizer's to move
        with evaluating(student):
            ours = student(invented)
        with evaluating(teacher):
            theirs, entering = forward_with_inputs(teacher, invented, layers)
        gap = F.l1_loss(ours.float(), theirs.float())
        losses = {"discrepancy": -discrepancy_weight * torch.log1p(gap)}
        if smoothness_weight:
            losses["smoothness"] = smoothness_weight * roughness(invented)
        if memories:
            losses["statistics"] = statistics_weight * statistics_loss(entering, memories)
        return losses

    networks: dict[str, nn.Module] = {"student": student, "synthesizer": synthesizer}
    after = None
    if average is not None:
        networks["memory"] = average
        after = functools.partial(average.update_parameters, synthesizer)
    return Method(
        networks=networks,
        forward=forward,
        updates=(
            Update("student", close_the_gap),
            Update("synthesizer", widen_the_gap, every=synthesizer_every, after=after),
        ),
    )


def roughness(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, across and down: photos have some 0.1.

    Nothing keeps an adversary near photos but what the teacher remembers of them, and a teacher
    without BatchNorm remembers nothing: its synthesizer ends at stripes of full contrast.

    Args:
        images: (B, C, H, W).
    """
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def noise_batches(*, noise: int, size: int, batch_size: int, seed: int) -> BatchAt:
    """What a synthesizer invents from, in the place of images: a function of seed and step alone.

    Args:
        noise: Channels, the synthesizer's.
        size: Height and width of the images to invent, in pixels.
        batch_size: Of them.
        seed: Of everything random.

    Raises:
        ValueError: A synthesizer makes no images of that size.
    """
    if size % STRIDE:
        raise ValueError(
            f"crop = {size}, and a synthesizer makes images of multiples of {STRIDE} pixels: take "
            f"{-(-size // STRIDE) * STRIDE}"
        )
    cells = size // STRIDE

    def batch_at(step: int) -> Batch:
        return Batch(noise_of(step, (batch_size, noise, cells, cells), seed=seed))

    return batch_at


def noise_of(step: int, shape: tuple[int, int, int, int], *, seed: int) -> Tensor:
    """The noise of a step, (B, C, H, W). Steps of training begin at 1; 0 is left for the rest."""
    state = np.random.SeedSequence([seed, step]).generate_state(1)
    return noise_map(shape, torch.Generator().manual_seed(int(state[0])))
