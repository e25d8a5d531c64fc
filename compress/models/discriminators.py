"""Discriminators; layer names are the published ones."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from compress.models.generators import Norm, norm_layer

FEATURE_LAYER = 10
"""Index of the layer whose output DCD compares: the LeakyReLU before the last convolution."""


class PatchDiscriminator(nn.Module):
    """PatchGAN with three strided layers (Isola et al., 2017): one score per 70 x 70 patch.

    Args:
        channels: Channels in; 6 where it judges a pair (source, image), 3 for an image alone.
        width: Channels after the first convolution (``ndf`` in the papers).
        norm: As in the generators.
    """

    def __init__(self, channels: int = 3, width: int = 64, *, norm: Norm = "instance") -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.norm: Norm = norm
        bias = norm == "instance"
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for before, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            layers += [
                nn.Conv2d(before, 2 * before, 4, stride=stride, padding=1, bias=bias),
                norm_layer(norm)(2 * before),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(8 * width, 1, 4, padding=1))
        self.model = nn.Sequential(*layers)

    def features(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 8 * width, H/8 - 1, W/8 - 1)."""
        return cast(Tensor, self.model[: FEATURE_LAYER + 1](images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1, H/8 - 2, W/8 - 2): one score per patch."""
        return cast(Tensor, self.model[FEATURE_LAYER + 1 :](self.features(images)))
