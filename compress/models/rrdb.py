"""ESRGAN's generator: residual blocks of dense blocks, then nearest-neighbour upsampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.blocks import (
    Spec,
    draw_he,
    evenly_spaced,
    widths_from_json,
    widths_to_json,
)

SLOPE = 0.2
"""Negative slope of every activation."""

RESIDUAL = 0.2
"""What a residual branch is multiplied with, in a dense block and around three of them."""


@dataclass(frozen=True)
class RrdbWidths:
    """Channels of an `RrdbNet`.

    Attributes:
        stream: The residual stream, which every dense block returns to.
        growth: After the first four convolutions of each dense block, three dense blocks a block.
        up: After the two convolutions that follow an upsampling.
        head: Before the last convolution.
    """

    stream: int
    growth: tuple[tuple[int, int, int, int], ...]
    up: tuple[int, int]
    head: int

    @classmethod
    def uniform(cls, width: int = 64, blocks: int = 23, growth: int = 32) -> RrdbWidths:
        """The published shape: 23 blocks for photographs, 6 for drawings."""
        return cls(width, ((growth,) * 4,) * (3 * blocks), (width, width), width)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it made, and a scaled sum."""

    def __init__(self, stream: int, growth: tuple[int, int, int, int]) -> None:
        super().__init__()
        seen = [stream + sum(growth[:made]) for made in range(5)]
        self.conv1 = nn.Conv2d(seen[0], growth[0], 3, padding=1)
        self.conv2 = nn.Conv2d(seen[1], growth[1], 3, padding=1)
        self.conv3 = nn.Conv2d(seen[2], growth[2], 3, padding=1)
        self.conv4 = nn.Conv2d(seen[3], growth[3], 3, padding=1)
        self.conv5 = nn.Conv2d(seen[4], stream, 3, padding=1)

    @property
    def growth(self) -> tuple[int, int, int, int]:
        """Channels after the first four convolutions, as they are now."""
        one, two, three, four = self.conv1, self.conv2, self.conv3, self.conv4
        return one.out_channels, two.out_channels, three.out_channels, four.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, C, H, W) -> (B, C, H, W)."""
        seen = x
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, F.leaky_relu(convolution(seen), SLOPE)], 1)
        return x + RESIDUAL * cast(Tensor, self.conv5(seen))


class ResidualDenseBlock(nn.Module):
    """Three dense blocks and a scaled sum."""

    def __init__(self, stream: int, growth: tuple[tuple[int, int, int, int], ...]) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(stream, growth[0])
        self.rdb2 = DenseBlock(stream, growth[1])
        self.rdb3 = DenseBlock(stream, growth[2])

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, C, H, W) -> (B, C, H, W)."""
        return x + RESIDUAL * cast(Tensor, self.rdb3(self.rdb2(self.rdb1(x))))


class RrdbNet(nn.Module):
    """The generator of ESRGAN and Real-ESRGAN (Wang et al., 2018, 2021).

    (B, 3, H, W) -> (B, 3, scale x H, scale x W), both in [-1, 1]; published for [0, 1], which it
    converts to and from inside. The output is not clamped, as published. Layer names are those of
    BasicSR and Real-ESRGAN.

    Args:
        widths: ``RrdbWidths.uniform()`` is the published teacher.
        scale: 4, or 2 or 1, for which the image is first folded into 4 or 16 times the channels.

    Raises:
        ValueError: Another scale.
    """

    def __init__(self, widths: RrdbWidths, *, scale: int = 4) -> None:
        super().__init__()
        if scale not in (1, 2, 4):
            raise ValueError(f"an RRDB network upscales 1, 2 or 4 times, got {scale}")
        self.scale = scale
        self.multiple = 4 // scale
        w, growth = widths, widths.growth
        self.conv_first = nn.Conv2d(3 * self.multiple**2, w.stream, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualDenseBlock(w.stream, growth[i : i + 3]) for i in range(0, len(growth), 3))
        )
        self.conv_body = nn.Conv2d(w.stream, w.stream, 3, padding=1)
        self.conv_up1 = nn.Conv2d(w.stream, w.up[0], 3, padding=1)
        self.conv_up2 = nn.Conv2d(w.up[0], w.up[1], 3, padding=1)
        self.conv_hr = nn.Conv2d(w.up[1], w.head, 3, padding=1)
        self.conv_last = nn.Conv2d(w.head, 3, 3, padding=1)

    @classmethod
    def from_spec(cls, spec: Spec) -> RrdbNet:
        """The network of a specification, with fresh weights."""
        return cls(RrdbWidths(**widths_from_json(spec["widths"])), scale=spec["scale"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "rrdb", "scale": self.scale, "widths": widths_to_json(self.widths)}

    @property
    def taps(self) -> tuple[str, ...]:
        """Four blocks of the trunk, evenly spaced, the last among them."""
        return tuple(f"body.{block}" for block in evenly_spaced(len(self.body)))

    @property
    def widths(self) -> RrdbWidths:
        """The channels as they are now, read off the layers."""
        growth = tuple(m.growth for m in self.body.modules() if isinstance(m, DenseBlock))
        up = self.conv_up1.out_channels, self.conv_up2.out_channels
        return RrdbWidths(self.conv_first.out_channels, growth, up, self.conv_hr.out_channels)

    def draw_weights(self) -> None:
        """He initialization; a tenth of it inside the dense blocks, as ESRGAN does, and at the end.

        So every block starts near the identity and the image near a single colour.
        """
        draw_he(self, slope=SLOPE)
        draw_he(self.conv_last, slope=1.0, scale=0.1)
        draw_he(self.body, slope=SLOPE, scale=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Upscale (B, 3, H, W) in [-1, 1]."""
        x = (images + 1) / 2
        if self.multiple > 1:
            x = F.pixel_unshuffle(x, self.multiple)
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for convolution in (self.conv_up1, self.conv_up2):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu(convolution(x), SLOPE)
        x = F.leaky_relu(self.conv_hr(x), SLOPE)
        return 2 * cast(Tensor, self.conv_last(x)) - 1
