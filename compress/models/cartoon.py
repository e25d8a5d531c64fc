"""CartoonGAN's generator, with the layer names of its published weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.blocks import Spec, evenly_spaced, widths_from_json, widths_to_json

EPSILON = 1e-9
"""Of every instance norm."""

FIRST_BLOCK = 4
"""The number in the name of the first residual block's layers."""


@dataclass(frozen=True)
class CartoonWidths:
    """Channels of a `CartoonGenerator`.

    Attributes:
        stem: After the first 7x7 convolution.
        down: After the strided convolution and the plain one behind it, at half resolution.
        middle: After the second strided convolution.
        stream: The residual stream.
        inner: Between the two convolutions of each block.
        up: After the first transposed convolution and the plain one behind it.
        head: The same for the second.
    """

    stem: int
    down: tuple[int, int]
    middle: int
    stream: int
    inner: tuple[int, ...]
    up: tuple[int, int]
    head: tuple[int, int]

    @classmethod
    def uniform(cls, width: int = 64, blocks: int = 8) -> CartoonWidths:
        """The published shape."""
        two, four = 2 * width, 4 * width
        return cls(width, (two, two), four, four, (four,) * blocks, (two, two), (width, width))


class Sum(nn.Module):
    """Adds two tensors where distillation can look at the result; it has no weights."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of two tensors of one shape."""
        return x + y


class CartoonGenerator(nn.Module):
    """The generator of CartoonGAN (Chen et al., 2018).

    (B, 3, H, W) -> (B, 3, H, W), both RGB in [-1, 1] (the published weights want BGR, so channels
    are turned inside); H and W must be multiples of 4. Pads by reflection.

    Args:
        widths: ``CartoonWidths.uniform()`` is the published one.
    """

    multiple = 4
    scale = 1

    def __init__(self, widths: CartoonWidths) -> None:
        super().__init__()
        w = widths
        self.conv01_1 = nn.Conv2d(3, w.stem, 7)
        self.in01_1 = _norm(w.stem)
        self.conv02_1 = nn.Conv2d(w.stem, w.down[0], 3, stride=2)
        self.conv02_2 = nn.Conv2d(w.down[0], w.down[1], 3)
        self.in02_1 = _norm(w.down[1])
        self.conv03_1 = nn.Conv2d(w.down[1], w.middle, 3, stride=2)
        self.conv03_2 = nn.Conv2d(w.middle, w.stream, 3)
        self.in03_1 = _norm(w.stream)
        self.relu03_1 = nn.ReLU()
        for number, inner in enumerate(w.inner, FIRST_BLOCK):
            self.add_module(f"conv{number:02}_1", nn.Conv2d(w.stream, inner, 3))
            self.add_module(f"in{number:02}_1", _norm(inner))
            self.add_module(f"conv{number:02}_2", nn.Conv2d(inner, w.stream, 3))
            self.add_module(f"in{number:02}_2", _norm(w.stream))
            self.add_module(f"sum{number:02}", Sum())
        self.deconv01_1 = _widen(w.stream, w.up[0])
        self.deconv01_2 = nn.Conv2d(w.up[0], w.up[1], 3)
        self.in12_1 = _norm(w.up[1])
        self.deconv02_1 = _widen(w.up[1], w.head[0])
        self.deconv02_2 = nn.Conv2d(w.head[0], w.head[1], 3)
        self.in13_1 = _norm(w.head[1])
        self.deconv03_1 = nn.Conv2d(w.head[1], 3, 7)

    @classmethod
    def from_spec(cls, spec: Spec) -> CartoonGenerator:
        """The network of a specification, with fresh weights."""
        return cls(CartoonWidths(**widths_from_json(spec["widths"])))

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "cartoon", "widths": widths_to_json(self.widths)}

    @property
    def blocks(self) -> int:
        """Residual blocks."""
        return sum(isinstance(module, Sum) for module in self.children())

    @property
    def taps(self) -> tuple[str, ...]:
        """The stream as it enters the blocks and after three of them, the last among those."""
        blocks = evenly_spaced(self.blocks, 3)
        return "relu03_1", *(f"sum{FIRST_BLOCK + block:02}" for block in blocks)

    @property
    def widths(self) -> CartoonWidths:
        """The channels as they are now, read off the layers."""
        return CartoonWidths(
            self.conv01_1.out_channels,
            (self.conv02_1.out_channels, self.conv02_2.out_channels),
            self.conv03_1.out_channels,
            self.conv03_2.out_channels,
            tuple(
                cast(nn.Conv2d, self._layer("conv{}_1", block)).out_channels
                for block in range(self.blocks)
            ),
            (self.deconv01_1.out_channels, self.deconv01_2.out_channels),
            (self.deconv02_1.out_channels, self.deconv02_2.out_channels),
        )

    def _layer(self, name: str, block: int) -> nn.Module:
        """A layer of a residual block: ``name`` without the block's number."""
        return self.get_submodule(name.format(f"{FIRST_BLOCK + block:02}"))

    def forward(self, images: Tensor) -> Tensor:
        """Translate (B, 3, H, W), RGB in [-1, 1], to the same."""
        x = images.flip(1)  # the published weights see BGR
        x = F.relu(self.in01_1(self.conv01_1(_reflect(x, 3))))
        x = self.conv02_2(_reflect(self.conv02_1(_reflect(x))))
        x = F.relu(self.in02_1(x))
        x = self.conv03_2(_reflect(self.conv03_1(_reflect(x))))
        x = self.relu03_1(self.in03_1(x))
        for block in range(self.blocks):
            inner = self._layer("conv{}_1", block)(_reflect(x))
            inner = F.relu(self._layer("in{}_1", block)(inner))
            inner = self._layer("conv{}_2", block)(_reflect(inner))
            x = self._layer("sum{}", block)(x, self._layer("in{}_2", block)(inner))
        x = self.deconv01_2(_reflect(self.deconv01_1(x)))
        x = F.relu(self.in12_1(x))
        x = self.deconv02_2(_reflect(self.deconv02_1(x)))
        x = F.relu(self.in13_1(x))
        x = self.deconv03_1(_reflect(x, 3))
        return torch.tanh(x).flip(1)


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, eps=EPSILON, affine=True)


def _widen(before: int, after: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)


def _reflect(x: Tensor, pixels: int = 1) -> Tensor:
    return F.pad(x, (pixels,) * 4, mode="reflect")
