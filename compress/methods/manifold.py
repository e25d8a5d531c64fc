"""The manifold of a generator's images: who is whose neighbour, and how densely they live.

MGGC (Ganjdanesh et al., 2024) covers the manifold that a generator has learned with neighbourhoods,
an image it makes and those next to it, and asks of the pruned generator that it keeps the density
in each. That much is the paper's, which has published no code. This project's choices: samples are
random crops of the training images; images are compared by an embedding of unit length, pooled
pixels or perceptual features; and the density may stand in the loss as an explicit term, a kernel
estimate, which the paper's adversarial objective is said to resemble.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.device import mover
from compress.loop import Batch, BatchAt
from compress.methods.likeness import Look
from compress.models.modes import evaluating

Embed = Callable[[Batch, Tensor], Tensor]
"""From a batch and images of it, (B, C, H, W) in [-1, 1], to (B, D) of unit length."""

POOLED = 16
"""Height and width that pixels are pooled to."""

NARROWEST = 1e-3
"""The smallest bandwidth: a teacher that makes one image only has a manifold of one point."""


@dataclass(frozen=True)
class Manifold:
    """Neighbourhoods of samples.

    Attributes:
        neighbourhoods: Numbers of samples, (N, k + 1): the centre, and its nearest in order.
        bandwidth: Of the kernel: the median distance of a sample to a neighbour, above 0 and at
            most 2, the largest distance between embeddings.
    """

    neighbourhoods: Tensor
    bandwidth: float


def pooled_pixels(_batch: Batch, images: Tensor) -> Tensor:
    """Embed images as their pixels, averaged over a grid of 16 x 16: (B, C, H, W) -> (B, 256 C)."""
    return F.normalize(F.adaptive_avg_pool2d(images.float(), POOLED).flatten(1), dim=1)


def pooled_features(look: Look) -> Embed:
    """Embed images as their deepest perceptual features, averaged over the image.

    Args:
        look: A published network's features, or a discriminator's.
    """

    def embed(batch: Batch, images: Tensor) -> Tensor:
        deepest = look(batch, images)[-1]  # (B, D, H', W')
        return F.normalize(deepest.float().mean((2, 3)), dim=1)

    return embed


def find_manifold(
    generator: nn.Module, sample_at: BatchAt, *, samples: int, neighbours: int, embed: Embed
) -> Manifold:
    """Translate samples, and find each one's nearest neighbours among them.

    Args:
        generator: Whose manifold it is; used in evaluation mode, where it is.
        sample_at: One image for each of the numbers 1 to ``samples``.
        samples: Points of the manifold; memory grows with their square.
        neighbours: Of each sample, beside itself.
        embed: What distances are measured in.

    Raises:
        ValueError: There are not so many neighbours.
    """
    move = mover(next(generator.parameters()).device)
    points = []
    with evaluating(generator), torch.no_grad():
        for number in range(1, samples + 1):
            batch = Batch(move(sample_at(number).source))
            points.append(embed(batch, generator(batch.source)).cpu())
    return neighbours_of(torch.cat(points), neighbours)


def neighbours_of(points: Tensor, neighbours: int) -> Manifold:
    """The neighbourhoods of points.

    Args:
        points: Embeddings of unit length, (N, D).
        neighbours: Of each, beside itself.

    Raises:
        ValueError: There are not so many.
    """
    count = len(points)
    if not 1 <= neighbours < count:
        raise ValueError(
            f"a neighbourhood of a sample and {neighbours} others cannot be found among {count} "
            f"samples: take 1 to {count - 1} neighbours, or more samples"
        )
    distances = squared_distances(points, points)
    distances.fill_diagonal_(-1)  # nobody is nearer to a point than itself, not even its twin
    nearest = distances.argsort(dim=1, stable=True)[:, : neighbours + 1]  # (N, k + 1)
    others = distances.gather(1, nearest[:, 1:]).sqrt()
    return Manifold(nearest, max(float(others.median()), NARROWEST))


def neighbourhood_batches(manifold: Manifold, sample_at: BatchAt, *, seed: int) -> BatchAt:
    """Batches of one neighbourhood each, its centre first.

    Every centre has its turn before one has its second; the order follows from the seed.

    Args:
        manifold: From `find_manifold`.
        sample_at: The samples it was found among.
        seed: Of the order.
    """
    count = len(manifold.neighbourhoods)

    def batch_at(step: int) -> Batch:
        turn, place = divmod(step - 1, count)
        centre = int(np.random.default_rng([seed, turn]).permutation(count)[place])
        samples = [sample_at(int(number) + 1) for number in manifold.neighbourhoods[centre]]
        targets = [sample.target for sample in samples if sample.target is not None]
        return Batch(
            torch.cat([sample.source for sample in samples]),
            torch.cat(targets) if targets else None,
        )

    return batch_at


def density_loss(theirs: Tensor, ours: Tensor, bandwidth: float) -> Tensor:
    """How differently dense two sets of samples are, seen from the first.

    Both densities are Gaussian kernel estimates; compared are their logarithms at each of the first
    samples, by mean absolute difference. So it does not matter which of our samples is where one of
    theirs was. (Proposed by this project: the paper's objective is adversarial.)

    Args:
        theirs: The original generator's images of a neighbourhood, embedded, (N, D). No gradient
            flows into them.
        ours: The pruned generator's of the same inputs, (N, D).
        bandwidth: Of the kernel, in the unit of the embedding.

    Returns:
        A scalar, 0 where both sets are the same.
    """
    places = theirs.detach().float()

    def log_density(samples: Tensor) -> Tensor:
        exponents = squared_distances(places, samples) / (-2 * bandwidth**2)
        return exponents.logsumexp(1) - math.log(len(samples))

    return F.l1_loss(log_density(ours.float()), log_density(places))


def squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Squared distances of vectors of unit length, (N, D) and (M, D) -> (N, M), with a gradient."""
    with torch.autocast(points.device.type, enabled=False):
        return (2 - 2 * points @ others.T).clamp(min=0)
