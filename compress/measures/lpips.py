"""LPIPS: how different two images look, by learned weights on a network's feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compress import pretrained
from compress.perceptual import ARCHITECTURES, FeatureNetwork, Trunk, TrunkName, trunk_weights

SMALLEST = 31
"""Below this many pixels a side nothing is left for AlexNet's last layers."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS v0.1 (Zhang et al., "The unreasonable effectiveness of deep features", 2018).

    Feature maps are normalised to length one over channels; their squared differences are weighed
    by channel, averaged over the image and summed over layers. Frozen, and gradients flow to the
    images.

    Attributes:
        network: Whose feature maps, fed with ImageNet's mean and deviation.
        heads: A weight for each channel of each map, (1, C, 1, 1).
    """

    network: FeatureNetwork
    heads: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        """Which LPIPS: figures of AlexNet and VGG16 do not compare."""
        return f"LPIPS v0.1, {self.network.name}"

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        """Distances of pairs, (B, 3, H, W) in [-1, 1] each -> (B,); 0 is the same image.

        Raises:
            ValueError: The shapes differ, or the images are too small.
        """
        if images.shape != references.shape:
            raise ValueError(
                f"images of one size have a distance, not {tuple(images.shape)} "
                f"and {tuple(references.shape)}"
            )
        if min(images.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"LPIPS takes images of at least {SMALLEST} x {SMALLEST} pixels, "
                f"got {images.shape[-1]} x {images.shape[-2]}"
            )
        distance = torch.zeros(len(images), device=images.device)
        maps = zip(self.network.features(images), self.network.features(references), strict=True)
        for head, (ours, theirs) in zip(self.heads, maps, strict=True):
            difference = (_unit(ours) - _unit(theirs)).square()  # (B, C, H, W)
            distance = distance + (head.to(difference) * difference).sum(dim=1).mean(dim=(1, 2))
        return distance


def load_lpips(name: TrunkName = "alexnet") -> Lpips:
    """LPIPS by AlexNet, which papers report, or by VGG16; weights are fetched on first use.

    Raises:
        PretrainedError: The weights could not be fetched.
    """
    return lpips_of(name, pretrained.tensors(trunk_weights(name)))


def lpips_of(name: TrunkName, weights: Mapping[str, Tensor]) -> Lpips:
    """LPIPS of given weights: ``conv{i}.weight``, ``conv{i}.bias`` and ``lin{i}.weight``."""
    taps = tuple(ARCHITECTURES[name].taps)
    trunk = Trunk(name, weights, taps=taps, scaling="imagenet")
    return Lpips(trunk, tuple(weights[f"lin{index}.weight"] for index in range(len(taps))))


def _unit(features: Tensor) -> Tensor:
    # the inner epsilon keeps the gradient finite where a map is all zeros
    length = (features.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
    return features / (length + 1e-10)
