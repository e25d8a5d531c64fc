"""What makes images of noise, where no data may be had: the generator of data-free distillation."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16
"""Height and width of an image over those of its noise."""


class Synthesizer(nn.Module):
    """Noise to images, (B, noise, H, W) -> (B, 3, 16 H, 16 W) in [-1, 1].

    The generator that DFAD trains for dense outputs (Fang et al., 2019; a DCGAN with BatchNorm and
    leaky ReLUs), except that it is convolutional from the noise on, where DFAD's begins with a
    linear layer: images of any multiple of 16 pixels come from the same weights, small ones to
    train on and large ones to calibrate with. What belongs together across such an image is in
    the noise, see `noise_map`. And it enlarges by repeating pixels and convolving, which leaves no
    checkerboard of transposed convolutions for a student to learn.

    Args:
        noise: Channels of the noise.
        width: Channels before the image; eight times as many where the noise comes in.
    """

    def __init__(self, noise: int = 64, width: int = 32) -> None:
        super().__init__()
        self.noise, self.width = noise, width
        layers: list[nn.Module] = [
            nn.Conv2d(noise, 8 * width, 1, bias=False),
            nn.BatchNorm2d(8 * width),
        ]
        for before, after in ((8, 4), (4, 2), (2, 1), (1, 1)):
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(before * width, after * width, 3, padding=1, bias=False),
                nn.BatchNorm2d(after * width),
                nn.LeakyReLU(0.2),
            ]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        """(B, noise, H, W) -> (B, 3, 16 H, 16 W) in [-1, 1]."""
        return cast(Tensor, self.model(noise))


def noise_map(shape: tuple[int, int, int, int], draw: torch.Generator) -> Tensor:
    """Normal noise that is alike over areas of every size, (B, C, H, W); each value N(0, 1).

    The sum of independent maps of 1 x 1, 2 x 2, 4 x 4 ... cells, enlarged to H x W, over the root
    of their number. Independent values would make every image the same texture all over;
    so one image is bright and another dark, and has regions, as photos have. One cell is DFAD's
    single vector.

    Args:
        shape: (B, C, H, W).
        draw: On the CPU; where all the randomness comes from.
    """
    batch, channels, height, width = shape
    maps, cells = [], 1
    while True:
        rows, columns = min(cells, height), min(cells, width)
        drawn = torch.randn(batch, channels, rows, columns, generator=draw)
        maps.append(F.interpolate(drawn, size=(height, width), mode="nearest"))
        if (rows, columns) == (height, width):
            return torch.stack(maps).sum(0) / math.sqrt(len(maps))
        cells *= 2
