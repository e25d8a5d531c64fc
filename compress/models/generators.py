"""Generators of the published image-to-image families; layer names are the published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from compress.models.blocks import (
    Norm,
    Spec,
    has_bias,
    initialize,
    norm_layer,
    widths_from_json,
    widths_to_json,
)

__all__ = [
    "RESNET_TAPS",
    "Norm",
    "ResnetBlock",
    "ResnetGenerator",
    "ResnetWidths",
    "initialize",
    "initialize_as_identity",
    "norm_layer",
    "resnet_layers",
    "resnet_taps",
    "resnet_widths",
]

RESNET_TAPS = ("model.9", "model.12", "model.15", "model.18")
"""Where the distillation papers look into a nine-block ResNet: (B, 4C, H/4, W/4) each."""

SUB_MOBILE_NUMBERS = 8
GCC_NUMBERS = 23

IDENTITY_GAIN = 2.4
"""Slope on [0, 1] before the last tanh of an identity start: tanh(1.2 x) is near x on [-1, 1]."""


@dataclass(frozen=True)
class ResnetWidths:
    """Channels of a ResNet generator, layer by layer; pruning changes these and nothing else.

    Attributes:
        stem: After the first 7x7 convolution, at full resolution.
        down: After the first strided convolution, at half resolution.
        stream: The residual stream, at quarter resolution.
        inner: Between the two convolutions of each block.
        up: After the first transposed convolution, at half resolution.
        head: Before the last 7x7 convolution, at full resolution.
    """

    stem: int
    down: int
    stream: int
    inner: tuple[int, ...]
    up: int
    head: int

    @classmethod
    def uniform(cls, width: int, blocks: int = 9) -> ResnetWidths:
        """The published shape: ``width`` (``ngf``) at the ends, four times that in the middle."""
        return cls(width, 2 * width, 4 * width, (4 * width,) * blocks, 2 * width, width)

    @classmethod
    def from_sub_mobile(cls, config: Sequence[int]) -> ResnetWidths:
        """Read a sub-network's name of GAN Compression (Li et al., 2020), such as 32_32_48_....

        Args:
            config: Eight base widths: stem, first and second strided convolution, blocks 0-2, 3-5
                and 6-8, first transposed convolution, head. They count in units of the published
                shape (four times as many channels in the middle).

        Raises:
            ValueError: Not eight numbers.
        """
        if len(config) != SUB_MOBILE_NUMBERS:
            raise ValueError(f"a sub-mobile config has 8 numbers, got {len(config)}: {config}")
        stem, down, stream, *thirds, up, head = config
        inner = tuple(4 * width for width in thirds for _ in range(3))
        return cls(stem, 2 * down, 4 * stream, inner, 2 * up, head)

    @classmethod
    def from_gcc(cls, cfg: Sequence[int]) -> ResnetWidths:
        """Read a width list of GCC (Li et al., 2021): two numbers a block, 0 for a block left out.

        Args:
            cfg: Stem, two strided convolutions, (inner, stream) of nine blocks, up, head.

        Raises:
            ValueError: Not 23 numbers, or a block that leaves the residual stream's width.
        """
        if len(cfg) != GCC_NUMBERS:
            raise ValueError(f"a GCC width list has 23 numbers, got {len(cfg)}: {cfg}")
        stem, down, stream, *blocks, up, head = cfg
        pairs = [(i, s) for i, s in zip(blocks[::2], blocks[1::2], strict=True) if i]
        strays = sorted({s for _, s in pairs} - {stream})
        if strays:
            raise ValueError(
                f"every block of a GCC width list must return to the stream's {stream} channels, "
                f"got {strays}"
            )
        return cls(stem, down, stream, tuple(i for i, _ in pairs), up, head)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions and a sum; no activation after the sum."""

    def __init__(self, stream: int, inner: int, norm: Norm) -> None:
        super().__init__()
        bias = has_bias(norm)
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(stream, inner, 3, bias=bias),
            norm_layer(norm)(inner),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(inner, stream, 3, bias=bias),
            norm_layer(norm)(stream),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, C, H, W) -> (B, C, H, W)."""
        return x + cast(Tensor, self.conv_block(x))


class ResnetGenerator(nn.Module):
    """The ResNet generator of CycleGAN and pix2pix (Johnson et al., 2016; Zhu et al., 2017).

    (B, 3, H, W) -> (B, 3, H, W), both in [-1, 1]; H and W must be multiples of 4. The one
    attribute ``model`` numbers its layers as the published checkpoints do.

    Args:
        widths: Channels; ``ResnetWidths.uniform(64)`` is the published teacher.
        norm: ``instance`` as in CycleGAN, ``batch`` as in pix2pix (folds away when exported).
    """

    multiple = 4
    scale = 1

    def __init__(self, widths: ResnetWidths, *, norm: Norm = "instance") -> None:
        super().__init__()
        self.norm: Norm = norm
        self.model = nn.Sequential(*resnet_layers(widths, norm, ResnetBlock))

    @classmethod
    def from_spec(cls, spec: Spec) -> ResnetGenerator:
        """The network of a specification, with fresh weights."""
        return cls(ResnetWidths(**widths_from_json(spec["widths"])), norm=spec["norm"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "resnet", "norm": self.norm, "widths": widths_to_json(self.widths)}

    @property
    def taps(self) -> tuple[str, ...]:
        """Layers that distillation looks at."""
        return resnet_taps(len(self.widths.inner))

    @property
    def widths(self) -> ResnetWidths:
        """The channels as they are now, read off the layers: pruning cannot make them stale."""
        inner = (m.conv_block[1] for m in self.model if isinstance(m, ResnetBlock))
        return resnet_widths(self.model, tuple(cast(nn.Conv2d, c).out_channels for c in inner))

    def forward(self, images: Tensor) -> Tensor:
        """Translate (B, 3, H, W) in [-1, 1] to the same."""
        return cast(Tensor, self.model(images))


def resnet_layers(
    widths: ResnetWidths, norm: Norm, block: Callable[[int, int, Norm], nn.Module]
) -> list[nn.Module]:
    """The published order of layers, around blocks of a family's own (stream, inner, norm)."""
    w, make_norm, bias = widths, norm_layer(norm), has_bias(norm)
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(3),
        nn.Conv2d(3, w.stem, 7, bias=bias),
        make_norm(w.stem),
        nn.ReLU(),
    ]
    for before, after in ((w.stem, w.down), (w.down, w.stream)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=bias),
            make_norm(after),
            nn.ReLU(),
        ]
    layers += [block(w.stream, inner, norm) for inner in w.inner]
    for before, after in ((w.stream, w.up), (w.up, w.head)):
        layers += [
            nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=bias),
            make_norm(after),
            nn.ReLU(),
        ]
    return [*layers, nn.ReflectionPad2d(3), nn.Conv2d(w.head, 3, 7), nn.Tanh()]


def resnet_widths(model: nn.Sequential, inner: tuple[int, ...]) -> ResnetWidths:
    """Channels of what `resnet_layers` made, read off its layers; ``inner`` of its blocks."""
    convolutions = [m for m in model if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    stem, down, stream, up, head = (c.out_channels for c in convolutions[:-1])
    return ResnetWidths(stem, down, stream, inner, up, head)


def resnet_taps(blocks: int, before: int = 9) -> tuple[str, ...]:
    """After the downsampling and after every third block, as the papers do for nine blocks.

    Args:
        blocks: In the residual stream.
        before: Index of the last layer before the first block.
    """
    return tuple(f"model.{before + block}" for block in range(0, blocks + 1, 3))


def initialize_as_identity(generator: ResnetGenerator) -> ResnetGenerator:
    """Draw weights so that the untrained network nearly returns its input.

    A network that restores an image first has to learn to pass one on, which takes these networks
    thousands of steps. Here a few channels carry the image from the start: the strided convolutions
    sort each 4 x 4 square of pixels into 48 channels, the residual blocks add little, and the
    transposed convolutions sort the pixels back. All other channels are drawn at random. (The
    idea is that of Dirac initialization, Zagoruyko and Komodakis, 2017, across two strides.)

    Raises:
        ValueError: Too narrow to hold the pixels, or normalised per image, which loses them.
    """
    w = generator.widths
    if generator.norm != "batch" or min(w.stem, w.head) < 3 or min(w.down, w.up) < 12:
        raise ValueError(f"an identity needs norm = 'batch' and ends of 3 and 12 channels, got {w}")
    if w.stream < 48:
        raise ValueError(f"an identity needs 48 channels in the residual stream, got {w.stream}")
    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    convolutions = [m for m in generator.model if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    stem, down, into_stream, up, out_of_stream, head = (c.weight for c in convolutions)
    norm = generator.model[2]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        for block in generator.model:
            if isinstance(block, ResnetBlock):
                block.conv_block[5].weight.mul_(0.01)  # type: ignore[operator]
        # [-1, 1] becomes [0, 1], which passes through every ReLU
        stem[:3] = 0
        norm.bias[:3] = 0.5
        head.mul_(0.01)
        head[:, :3] = 0
        for colour in range(3):
            stem[colour, colour, 3, 3] = 0.5
            head[colour, colour, 3, 3] = IDENTITY_GAIN
        assert convolutions[-1].bias is not None
        convolutions[-1].bias.fill_(-IDENTITY_GAIN / 2)
        for weight, back, channels in ((down, out_of_stream, 3), (into_stream, up, 12)):
            weight[: 4 * channels] = 0
            back[:, :channels] = 0
            for channel in range(channels):
                for corner in range(4):
                    # taps 1 and 2 of a 3x3 kernel with stride 2 and padding 1 are the two pixels
                    # of a pair; for a transposed one of output_padding 1 they are so as well
                    y, x = 1 + corner // 2, 1 + corner % 2
                    weight[4 * channel + corner, channel, y, x] = 1
                    back[4 * channel + corner, channel, y, x] = 1
    return generator
