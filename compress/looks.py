"""The perceptual features that a recipe compares images by."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from compress.loop import Batch
from compress.methods.likeness import Look
from compress.methods.pix2pix import see
from compress.models.families import Discriminator
from compress.perceptual import discriminator_features, load_perceptual
from compress.schema.methods import Perceptual


def make_look(name: Perceptual, discriminator: nn.Module | None) -> Look | None:
    """The perceptual features of a recipe: of a published network, or a discriminator's own.

    Raises:
        ValueError: The discriminator's are asked for, and there is none.
    """
    if name == "none":
        return None
    if name != "discriminator":
        network = load_perceptual(name)
        return lambda _batch, image: network.to(image.device).features(image)
    if not isinstance(discriminator, Discriminator):
        raise ValueError(
            'perceptual = "discriminator" looks with the discriminator, and this method has none; '
            "take vgg16 or alexnet"
        )
    judge = cast(nn.Module, discriminator)
    features = discriminator_features(judge)  # hooks in the discriminator as it is

    def look(batch: Batch, image: Tensor) -> tuple[Tensor, ...]:
        judge.to(image.device)  # a critic that nobody trains stays where it was read
        return features.features(see(judge, batch, image))

    return look
