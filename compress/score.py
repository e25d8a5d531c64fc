"""Which teacher is better, when two piles of images are all there is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.dataset import Dataset
from compress.data.sampling import to_tensor
from compress.features import as_generator
from compress.measures.statistics import kernel_distance
from compress.perceptual import load_perceptual
from compress.schema.methods import Perceptual

IMAGES = 32
"""Images a side: enough to tell a better teacher, quick enough to ask often."""


def domain_score(images: Dataset, perceptual: Perceptual) -> Callable[[nn.Module], float]:
    """How far a generator's translations are from the target domain.

    The kernel distance (the formula of KID) of the deepest perceptual feature maps, averaged over
    each image. It is not KID, whose features are those of the 2015 Inception network.

    Args:
        images: An unpaired data set; its first ones are used. Not the ones that a result is
            quoted for: that would choose the teacher by them.
        perceptual: ``vgg16`` or ``alexnet``.

    Raises:
        ValueError: There is no perceptual network, or no target images.
    """
    if perceptual not in ("vgg16", "alexnet"):
        raise ValueError(
            "an unpaired teacher that goes on learning is judged by perceptual features: set "
            f"perceptual to vgg16 or alexnet, not {perceptual!r}"
        )
    network = load_perceptual(perceptual)

    def seen(batch: Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            return network.features(batch)[-1].float().mean((2, 3)).cpu().numpy()

    targets = np.concatenate([seen(to_tensor(image)) for image in images.references(IMAGES)])

    def score(generator: nn.Module) -> float:
        multiple = as_generator(generator).multiple
        device = next(generator.parameters()).device
        translated = []
        for index in range(min(IMAGES, len(images))):
            source, _ = images.whole(index, multiple=multiple)
            with torch.no_grad():
                translated.append(seen(generator(to_tensor(source).to(device)).cpu()))
        return kernel_distance(np.concatenate(translated), targets)

    return score
