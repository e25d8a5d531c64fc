"""Real-ESRGAN's compact generator: plain convolutions at low resolution, one pixel shuffle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.blocks import (
    Spec,
    draw_he,
    evenly_spaced,
    widths_from_json,
    widths_to_json,
)


@dataclass(frozen=True)
class SrvggWidths:
    """Channels of an `SrvggNet`.

    Attributes:
        body: After each convolution but the last, which makes the pixels.
    """

    body: tuple[int, ...]

    @classmethod
    def uniform(cls, width: int = 64, convolutions: int = 16) -> SrvggWidths:
        """The published shape: 16 convolutions for video, 32 for photographs, besides the first."""
        return cls((width,) * (convolutions + 1))


class SrvggNet(nn.Module):
    """The compact generator of Real-ESRGAN (SRVGGNetCompact; Wang et al., 2021).

    (B, 3, H, W) -> (B, 3, scale x H, scale x W), both in [-1, 1]; published for [0, 1], which it
    converts to and from inside. It learns what to add to the input's nearest-neighbour upscaling;
    the output is not clamped, as published.

    Args:
        widths: ``SrvggWidths.uniform()`` is the published one for video.
        scale: Output size over input size.
    """

    multiple = 1

    def __init__(self, widths: SrvggWidths, *, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        before = 3
        for width in widths.body:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.PReLU(width)]
            before = width
        self.body = nn.ModuleList([*layers, nn.Conv2d(before, 3 * scale**2, 3, padding=1)])
        self.upsampler = nn.PixelShuffle(scale)

    @classmethod
    def from_spec(cls, spec: Spec) -> SrvggNet:
        """The network of a specification, with fresh weights."""
        return cls(SrvggWidths(**widths_from_json(spec["widths"])), scale=spec["scale"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "srvgg", "scale": self.scale, "widths": widths_to_json(self.widths)}

    @property
    def taps(self) -> tuple[str, ...]:
        """Four activations, evenly spaced, the last among them."""
        # the first convolution opens the trunk and belongs to none of its parts
        between = len(self.widths.body) - 1
        return tuple(f"body.{2 * (index + 1) + 1}" for index in evenly_spaced(between))

    @property
    def widths(self) -> SrvggWidths:
        """The channels as they are now, read off the layers."""
        *body, _ = (m.out_channels for m in self.body if isinstance(m, nn.Conv2d))
        return SrvggWidths(tuple(body))

    def draw_weights(self) -> None:
        """He initialization; the last layer a tenth of it, so that it starts near the upscaling."""
        draw_he(self, slope=0.25)
        draw_he(self.body[-1], slope=1.0, scale=0.1)
        for module in self.body:
            if isinstance(module, nn.PReLU):
                nn.init.constant_(module.weight, 0.25)

    def forward(self, images: Tensor) -> Tensor:
        """Upscale (B, 3, H, W) in [-1, 1]."""
        image = (images + 1) / 2
        x = image
        for layer in self.body:
            x = layer(x)
        nearest = F.interpolate(image, scale_factor=self.scale, mode="nearest")
        return 2 * (cast(Tensor, self.upsampler(x)) + nearest) - 1
