"""SRGAN: the SRResNet generator and the discriminator that judges 96 px images whole."""

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

EPSILON = 1e-3
"""Of every batch norm: the trained weights come from Keras, whose default this is."""

MOMENTUM = 0.2
"""Torch's way to say Keras's 0.8: the share of the new batch in the running statistics."""

IMAGE_SIZE = 96
"""Height and width the discriminator takes; its linear layers know no other."""


@dataclass(frozen=True)
class SrganWidths:
    """Channels of an `SrganGenerator`.

    Attributes:
        stream: The residual stream.
        inner: Between the two convolutions of each block.
        up: After each pixel shuffle; the convolution before it has four times as many.
    """

    stream: int
    inner: tuple[int, ...]
    up: tuple[int, ...]

    @classmethod
    def uniform(cls, width: int = 64, blocks: int = 16) -> SrganWidths:
        """The published shape, which upscales four times."""
        return cls(width, (width,) * blocks, (width, width))


class ConvolutionBlock(nn.Module):
    """A convolution, perhaps a batch norm, perhaps an activation, in ``conv_block``.

    Args:
        before: Channels in.
        after: Channels out.
        kernel: Odd size of the kernel; the image is padded with zeros to keep its size.
        stride: 2 halves an even size, and pads below and at the right only, as Keras does.
        norm: Normalise the convolution.
        activation: After that.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        norm: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.after_only = stride == 2
        padding = 0 if self.after_only else kernel // 2
        layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, padding)]
        if norm:
            layers.append(nn.BatchNorm2d(after, eps=EPSILON, momentum=MOMENTUM))
        if activation is not None:
            layers.append(activation)
        self.conv_block = nn.Sequential(*layers)

    @property
    def out_channels(self) -> int:
        """Channels out, as they are now."""
        return cast(nn.Conv2d, self.conv_block[0]).out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride)."""
        if self.after_only:
            x = F.pad(x, (0, 1, 0, 1))
        return cast(Tensor, self.conv_block(x))


class SrganBlock(nn.Module):
    """Two convolution blocks and a sum."""

    def __init__(self, stream: int, inner: int) -> None:
        super().__init__()
        self.conv_block1 = ConvolutionBlock(stream, inner, activation=nn.PReLU(inner))
        self.conv_block2 = ConvolutionBlock(inner, stream)

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, C, H, W) -> (B, C, H, W)."""
        return x + cast(Tensor, self.conv_block2(self.conv_block1(x)))


class SubPixelBlock(nn.Module):
    """A convolution whose channels become pixels, twice as many in each direction."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, 4 * after, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, 2H, 2W)."""
        return cast(Tensor, self.prelu(self.pixel_shuffle(self.conv(x))))


class SrganGenerator(nn.Module):
    """SRResNet, the generator of SRGAN (Ledig et al., 2017).

    (B, 3, H, W) -> (B, 3, 4H, 4W), both in [-1, 1]; as the trained Keras weights want it, its
    layers see an input in [0, 1] and make an output in [-1, 1]. Layer names are those of the
    PyTorch code that GCC prunes; slopes are one per channel (a file with a single one is the
    special case where they are equal).

    Args:
        widths: ``SrganWidths.uniform()`` is the published teacher. Every width in ``up`` doubles
            the size.
    """

    multiple = 1

    def __init__(self, widths: SrganWidths) -> None:
        super().__init__()
        w = widths
        self.conv_block1 = ConvolutionBlock(
            3, w.stream, 9, norm=False, activation=nn.PReLU(w.stream)
        )
        self.residual_blocks = nn.Sequential(*(SrganBlock(w.stream, inner) for inner in w.inner))
        self.conv_block2 = ConvolutionBlock(w.stream, w.stream)
        befores = (w.stream, *w.up[:-1])
        self.subpixel_convolutional_blocks = nn.Sequential(
            *(SubPixelBlock(before, after) for before, after in zip(befores, w.up, strict=True))
        )
        self.conv_block3 = ConvolutionBlock(w.up[-1], 3, 9, norm=False, activation=nn.Tanh())

    @classmethod
    def from_spec(cls, spec: Spec) -> SrganGenerator:
        """The network of a specification, with fresh weights."""
        return cls(SrganWidths(**widths_from_json(spec["widths"])))

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "srgan", "widths": widths_to_json(self.widths)}

    @property
    def scale(self) -> int:
        """Output size over input size."""
        return 1 << len(self.subpixel_convolutional_blocks)

    @property
    def taps(self) -> tuple[str, ...]:
        """Four residual blocks, evenly spaced, the last among them."""
        blocks = evenly_spaced(len(self.residual_blocks))
        return tuple(f"residual_blocks.{block}" for block in blocks)

    @property
    def widths(self) -> SrganWidths:
        """The channels as they are now, read off the layers."""
        blocks = (m for m in self.residual_blocks if isinstance(m, SrganBlock))
        ups = (m for m in self.subpixel_convolutional_blocks if isinstance(m, SubPixelBlock))
        return SrganWidths(
            self.conv_block1.out_channels,
            tuple(block.conv_block1.out_channels for block in blocks),
            tuple(up.conv.out_channels // 4 for up in ups),
        )

    def draw_weights(self) -> None:
        """He initialization; the layer before the tanh as a linear one."""
        draw_he(self, slope=0.25)
        draw_he(self.conv_block3, slope=1.0)
        for module in self.modules():
            if isinstance(module, nn.PReLU):
                nn.init.constant_(module.weight, 0.25)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Upscale (B, 3, H, W) in [-1, 1]."""
        x = self.conv_block1((images + 1) / 2)
        x = x + self.conv_block2(self.residual_blocks(x))
        return cast(Tensor, self.conv_block3(self.subpixel_convolutional_blocks(x)))


class SrganDiscriminator(nn.Module):
    """The discriminator of SRGAN (Ledig et al., 2017): one score for a whole 96 px image.

    Scores are logits: the sigmoid that the Keras code ends with belongs to the loss. Its batch
    norms were trained and judge well with batch statistics only, so leave it in training mode.

    Args:
        width: Channels after the first convolution; they double at every second one.
        hidden: Width of the linear layer before the score.
    """

    channels = 3

    def __init__(self, width: int = 64, *, hidden: int = 1024) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        blocks: list[ConvolutionBlock] = []
        before = 3
        for index in range(8):
            after = width * 2 ** (index // 2)
            blocks.append(
                ConvolutionBlock(
                    before,
                    after,
                    stride=1 + index % 2,
                    norm=index > 0,
                    activation=nn.LeakyReLU(0.2),
                )
            )
            before = after
        self.conv_blocks = nn.Sequential(*blocks)
        self.fc1 = nn.Linear(before * (IMAGE_SIZE // 16) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    @classmethod
    def from_spec(cls, spec: Spec) -> SrganDiscriminator:
        """The network of a specification, with fresh weights."""
        return cls(spec["width"], hidden=spec["hidden"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "srgan_discriminator", "width": self.width, "hidden": self.hidden}

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 8 * width, H / 16, W / 16), of any size."""
        return cast(Tensor, self.conv_blocks(images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 96, 96) -> (B, 1): a logit, positive for a real image.

        Raises:
            ValueError: Another size.
        """
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(
                f"SRGAN's discriminator judges images of {IMAGE_SIZE} x {IMAGE_SIZE}, got "
                f"{images.shape[-1]} x {images.shape[-2]}; crop them"
            )
        hidden = F.leaky_relu(self.fc1(self.features(images).flatten(1)), 0.2)
        return cast(Tensor, self.fc2(hidden))
