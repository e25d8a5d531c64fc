"""Discriminators; layer names are the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from compress.models.blocks import Norm, Spec, has_bias, norm_layer

FEATURE_LAYER = 10
"""Index of the layer whose output DCD compares: the LeakyReLU before the last convolution."""

SHARED_BLOCKS = 5


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al., 2017): one score per patch, of 70 x 70 pixels for three layers.

    Args:
        channels: Channels in; 6 where it judges a pair (source, image), 3 for an image alone.
        width: Channels after the first convolution (``ndf`` in the papers).
        norm: As in the generators.
        layers: Strided convolutions; one of stride 1 follows them.
    """

    def __init__(
        self, channels: int = 3, width: int = 64, *, norm: Norm = "instance", layers: int = 3
    ) -> None:
        super().__init__()
        self.channels, self.width, self.layers = channels, width, layers
        self.norm: Norm = norm
        modules: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for before, after, stride in steps(width, layers):
            modules += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=has_bias(norm)),
                norm_layer(norm)(after),
                nn.LeakyReLU(0.2),
            ]
        modules.append(nn.Conv2d(widest(width, layers), 1, 4, padding=1))
        self.model = nn.Sequential(*modules)

    @classmethod
    def from_spec(cls, spec: Spec) -> PatchDiscriminator:
        """The network of a specification, with fresh weights."""
        # files of version 0.1 do not say how many layers: always three
        layers = spec.get("layers", 3)
        return cls(spec["channels"], spec["width"], norm=spec["norm"], layers=layers)

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {
            "family": "patchgan",
            "norm": self.norm,
            "channels": self.channels,
            "width": self.width,
            "layers": self.layers,
        }

    def features(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 8 * width, H/8 - 1, W/8 - 1), for three layers."""
        return cast(Tensor, self.model[:-1](images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1, H/8 - 2, W/8 - 2), for three layers: scores of patches."""
        return cast(Tensor, self.model(images))


class PixelDiscriminator(nn.Module):
    """PixelGAN (Isola et al., 2017): one score per pixel, from 1x1 convolutions.

    Args:
        channels: Channels in.
        width: Channels after the first convolution.
        norm: As in the generators.
    """

    def __init__(self, channels: int = 3, width: int = 64, *, norm: Norm = "instance") -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.norm: Norm = norm
        bias = has_bias(norm)
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            norm_layer(norm)(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )

    @classmethod
    def from_spec(cls, spec: Spec) -> PixelDiscriminator:
        """The network of a specification, with fresh weights."""
        return cls(spec["channels"], spec["width"], norm=spec["norm"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {
            "family": "pixelgan",
            "norm": self.norm,
            "channels": self.channels,
            "width": self.width,
        }

    def features(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 2 * width, H, W)."""
        return cast(Tensor, self.net[:-1](images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1, H, W): one score per pixel."""
        return cast(Tensor, self.net(images))


class SharedBlock(nn.Module):
    """Layers of a shared PatchGAN that one head or all of them go through."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the layers do."""
        return cast(Tensor, self.block(x))


class SharedPatchDiscriminator(nn.Module):
    """The PatchGAN that OMGD's teachers share (Ren et al., 2021): common layers, then heads.

    The published code keeps an unused copy of every shared block and chooses a head by a global
    variable; here shared blocks exist once and the head is an argument.

    Args:
        channels: Channels in.
        width: Channels after the first convolution.
        norm: As in the generators.
        shared: The first so many of the five blocks are common to all heads.
        heads: One for each teacher.

    Raises:
        ValueError: ``shared`` is not between 0 and 5.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        *,
        norm: Norm = "instance",
        shared: int,
        heads: int = 2,
    ) -> None:
        super().__init__()
        if not 0 <= shared <= SHARED_BLOCKS:
            raise ValueError(f"0 to {SHARED_BLOCKS} blocks can be shared, got {shared}")
        self.channels, self.width, self.shared, self.heads = channels, width, shared, heads
        self.norm: Norm = norm

        def layers(index: int) -> list[nn.Module]:
            if index == 0:
                return [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            if index == SHARED_BLOCKS - 1:
                return [nn.Conv2d(widest(width, 3), 1, 4, padding=1)]
            before, after, stride = steps(width, 3)[index - 1]
            return [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=has_bias(norm)),
                norm_layer(norm)(after),
                nn.LeakyReLU(0.2),
            ]

        for index in range(SHARED_BLOCKS):
            copies = 1 if index < shared else heads
            blocks = nn.ModuleList(SharedBlock(layers(index)) for _ in range(copies))
            self.add_module(f"block{index + 1}s", blocks)

    @classmethod
    def from_spec(cls, spec: Spec) -> SharedPatchDiscriminator:
        """The network of a specification, with fresh weights."""
        return cls(
            spec["channels"],
            spec["width"],
            norm=spec["norm"],
            shared=spec["shared"],
            heads=spec["heads"],
        )

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {
            "family": "shared_patchgan",
            "norm": self.norm,
            "channels": self.channels,
            "width": self.width,
            "shared": self.shared,
            "heads": self.heads,
        }

    def forward(self, images: Tensor, head: int) -> Tensor:
        """(B, channels, H, W) -> (B, 1, H/8 - 2, W/8 - 2).

        Args:
            images: What to judge.
            head: Whose judge to be, 0 to ``heads`` - 1.

        Raises:
            ValueError: There is no such head.
        """
        x = images
        if not 0 <= head < self.heads:
            raise ValueError(f"there are heads 0 to {self.heads - 1}, got {head}")
        for index in range(SHARED_BLOCKS):
            branches = cast(nn.ModuleList, self.get_submodule(f"block{index + 1}s"))
            x = branches[0 if index < self.shared else head](x)
        return x


def widest(width: int, layers: int) -> int:
    """Channels before the last convolution."""
    return width * min(1 << layers, 8)


def steps(width: int, layers: int) -> list[tuple[int, int, int]]:
    """Channels in and out and stride of the convolutions between the first and the last."""
    return [
        (widest(width, index - 1), widest(width, index), 2 if index < layers else 1)
        for index in range(1, layers + 1)
    ]
