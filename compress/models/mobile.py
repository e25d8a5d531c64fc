"""ResNets with separable convolutions in their blocks, and OMGD's deeper teacher of that kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from compress.models.blocks import (
    ExpansionBlock,
    Norm,
    Spec,
    has_bias,
    norm_layer,
    widths_from_json,
    widths_to_json,
)
from compress.models.generators import ResnetWidths, resnet_layers, resnet_taps, resnet_widths

DEEPEST_BLOCKS = (4, 5)
"""Separable blocks before and after the two expansion blocks in the middle of OMGD's teacher."""


class SeparableConv2d(nn.Module):
    """A 3x3 depthwise convolution, an instance norm, a 1x1 convolution; no activation between.

    The norm between is an instance norm without weights in every published code, whatever norm the
    network has elsewhere.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, groups=channels),
            nn.InstanceNorm2d(channels),
            nn.Conv2d(channels, out_channels, 1),
        )

    @property
    def out_channels(self) -> int:
        """Channels out, as they are now."""
        return cast(nn.Conv2d, self.conv[2]).out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H - 2, W - 2)."""
        return cast(Tensor, self.conv(x))


class MobileResnetBlock(nn.Module):
    """Two separable convolutions and a sum.

    The second one has index 6, not 5 as in `ResnetBlock`: no mobile generator was ever published
    without a Dropout layer (of rate 0) at index 4, whose place an Identity keeps here.
    """

    def __init__(self, stream: int, inner: int, norm: Norm) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            SeparableConv2d(stream, inner),
            norm_layer(norm)(inner),
            nn.ReLU(),
            nn.Identity(),
            nn.ReflectionPad2d(1),
            SeparableConv2d(inner, stream),
            norm_layer(norm)(stream),
        )

    @property
    def inner(self) -> int:
        """Channels between the two convolutions, as they are now."""
        return cast(SeparableConv2d, self.conv_block[1]).out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, C, H, W) -> (B, C, H, W)."""
        return x + cast(Tensor, self.conv_block(x))


class MobileResnetGenerator(nn.Module):
    """The ResNet generator with separable blocks (Li et al., 2020): teacher and student of most.

    (B, 3, H, W) -> (B, 3, H, W), both in [-1, 1]; H and W must be multiples of 4.

    Args:
        widths: ``ResnetWidths.uniform(64)`` is the published teacher, 16 the usual student;
            ``from_sub_mobile`` and ``from_gcc`` read the width lists of pruned ones.
        norm: After every convolution outside the separable ones.
    """

    multiple = 4
    scale = 1

    def __init__(self, widths: ResnetWidths, *, norm: Norm = "instance") -> None:
        super().__init__()
        self.norm: Norm = norm
        self.model = nn.Sequential(*resnet_layers(widths, norm, MobileResnetBlock))

    @classmethod
    def from_spec(cls, spec: Spec) -> MobileResnetGenerator:
        """The network of a specification, with fresh weights."""
        return cls(ResnetWidths(**widths_from_json(spec["widths"])), norm=spec["norm"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "mobile", "norm": self.norm, "widths": widths_to_json(self.widths)}

    @property
    def taps(self) -> tuple[str, ...]:
        """Layers that distillation looks at."""
        return resnet_taps(len(self.widths.inner))

    @property
    def widths(self) -> ResnetWidths:
        """The channels as they are now, read off the layers."""
        blocks = (m for m in self.model if isinstance(m, MobileResnetBlock))
        return resnet_widths(self.model, tuple(block.inner for block in blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Translate (B, 3, H, W) in [-1, 1] to the same."""
        return cast(Tensor, self.model(images))


@dataclass(frozen=True)
class DeepestWidths:
    """Channels of OMGD's deeper ResNet.

    Attributes:
        stem: After the first 7x7 convolution.
        levels: After each of the two strided and two transposed convolutions: channels of that
            convolution, three inside the expansion block behind it, and of the 3x3 convolution
            behind that.
        inner: Between the two convolutions of each separable block.
        middle: The three inside each expansion block in the middle.
    """

    stem: int
    levels: tuple[tuple[int, int, int, int, int], ...]
    inner: tuple[int, ...]
    middle: tuple[tuple[int, int, int], ...]

    @classmethod
    def uniform(cls, width: int) -> DeepestWidths:
        """The published shape; ``width`` is the student's in OMGD."""
        c = 4 * width
        levels = tuple((d, 4 * d, 4 * d, d, d) for d in (2 * width, c, 2 * width, width))
        return cls(width, levels, (c,) * sum(DEEPEST_BLOCKS), ((4 * c, 4 * c, c),) * 2)


class DeepestMobileGenerator(nn.Module):
    """The deeper teacher of OMGD (Ren et al., 2021): as wide as its student, and much deeper.

    (B, 3, H, W) -> (B, 3, H, W), both in [-1, 1]; H and W must be multiples of 4.

    Args:
        widths: ``DeepestWidths.uniform`` of the student's width is the published one.
        norm: After every convolution outside the separable ones.
    """

    multiple = 4
    scale = 1

    def __init__(self, widths: DeepestWidths, *, norm: Norm = "instance") -> None:
        super().__init__()
        self.norm: Norm = norm
        make_norm, bias = norm_layer(norm), has_bias(norm)
        first = DEEPEST_BLOCKS[0]
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, widths.stem, 7, bias=bias),
            make_norm(widths.stem),
            nn.ReLU(),
        ]
        before = widths.stem
        for index, (entry, wide, middle, narrow, leave) in enumerate(widths.levels):
            resize = (
                nn.Conv2d(before, entry, 3, stride=2, padding=1, bias=bias)
                if index < len(widths.levels) // 2
                else nn.ConvTranspose2d(
                    before, entry, 3, stride=2, padding=1, output_padding=1, bias=bias
                )
            )
            layers += [
                resize,
                make_norm(entry),
                nn.ReLU(),
                ExpansionBlock(entry, (wide, middle, narrow), norm),
                nn.Conv2d(entry, leave, 3, padding=1, bias=bias),
                make_norm(leave),
                nn.ReLU(),
            ]
            before = leave
            if index == len(widths.levels) // 2 - 1:
                blocks = [MobileResnetBlock(leave, inner, norm) for inner in widths.inner]
                expansions = [ExpansionBlock(leave, inner, norm) for inner in widths.middle]
                layers += [*blocks[:first], *expansions, *blocks[first:]]
        self.model = nn.Sequential(
            *layers, nn.ReflectionPad2d(3), nn.Conv2d(before, 3, 7), nn.Tanh()
        )

    @classmethod
    def from_spec(cls, spec: Spec) -> DeepestMobileGenerator:
        """The network of a specification, with fresh weights."""
        return cls(DeepestWidths(**widths_from_json(spec["widths"])), norm=spec["norm"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {
            "family": "deepest_mobile",
            "norm": self.norm,
            "widths": widths_to_json(self.widths),
        }

    @property
    def taps(self) -> tuple[str, ...]:
        """After the downsampling and after every third of the eleven blocks."""
        return resnet_taps(11, before=17)

    @property
    def widths(self) -> DeepestWidths:
        """The channels as they are now, read off the layers."""
        stem, *pairs, _ = (
            m.out_channels for m in self.model if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
        )
        expansions = [m.inner for m in self.model if isinstance(m, ExpansionBlock)]
        # two of the six expansion blocks stand in the middle, between the levels down and up
        inside = expansions[:2] + expansions[4:]
        levels = tuple(
            (entry, *inner, leave)
            for entry, leave, inner in zip(pairs[::2], pairs[1::2], inside, strict=True)
        )
        blocks = tuple(m.inner for m in self.model if isinstance(m, MobileResnetBlock))
        return DeepestWidths(stem, levels, blocks, tuple(expansions[2:4]))

    def forward(self, images: Tensor) -> Tensor:
        """Translate (B, 3, H, W) in [-1, 1] to the same."""
        return cast(Tensor, self.model(images))
