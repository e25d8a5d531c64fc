"""The U-Net generator of pix2pix, and OMGD's deeper teacher of that kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
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

FEWEST_LEVELS = 4

Expansions = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class UnetWidths:
    """Channels of a U-Net, from the outside in.

    Attributes:
        down: After the strided convolution of each level.
        up: After the transposed convolution of each level but the outermost (which makes the
            image): one fewer than ``down``. ``up[i]`` is concatenated with ``down[i]``.
        hollow: The innermost level has a norm behind its strided convolution and nothing inside,
            as where GCC pruned the levels below it away.
    """

    down: tuple[int, ...]
    up: tuple[int, ...]
    hollow: bool = False

    def __post_init__(self) -> None:
        if len(self.down) < FEWEST_LEVELS or len(self.up) != len(self.down) - 1:
            raise ValueError(
                f"a U-Net needs {FEWEST_LEVELS} levels down or more and one fewer up, got "
                f"{len(self.down)} down and {len(self.up)} up"
            )

    @classmethod
    def uniform(cls, width: int, levels: int = 8) -> UnetWidths:
        """The published shape: eight levels for images of 256 px and more, seven for 128 px."""
        down = tuple(width * min(2**level, 8) for level in range(levels))
        return cls(down, down[:-1])

    @classmethod
    def from_gcc(cls, filters: Sequence[int]) -> UnetWidths:
        """Read a filter list of GCC (Li et al., 2021): 0 for levels that are pruned away.

        Args:
            filters: Channels of every convolution in the order they run, with or without the last
                one, which makes the image: twice the levels, or one fewer.

        Raises:
            ValueError: Fewer than four levels are left.
        """
        levels = (len(filters) + 1) // 2
        down, up = tuple(filters[:levels]), tuple(reversed(filters[levels : 2 * levels - 1]))
        empty = [level for level in range(1, levels) if not (down[level] and up[level - 1])]
        left = min(empty, default=levels)
        return cls(down[:left], up[: left - 1], hollow=left < levels)


@dataclass(frozen=True)
class DeepestUnetWidths:
    """Channels of OMGD's deeper U-Net.

    Attributes:
        plain: Those of the U-Net it is made from.
        down_expansions: Three inside each of the two expansion blocks on the way down of each
            level but the innermost, from the outside in.
        up_expansions: The same on the way up.
    """

    plain: UnetWidths
    down_expansions: tuple[Expansions, ...]
    up_expansions: tuple[Expansions, ...]

    @classmethod
    def uniform(cls, width: int, levels: int = 8) -> DeepestUnetWidths:
        """The published shape; ``width`` is the student's in OMGD."""
        plain = UnetWidths.uniform(width, levels)
        down = plain.down[:-1]
        # the outermost level expands what comes up to it before it makes the image
        up = (plain.down[0] + plain.up[0], *plain.up[:-1])
        return cls(plain, *(tuple(((4 * d, 4 * d, d),) * 2 for d in side) for side in (down, up)))


class UnetBlock(nn.Module):
    """One level: down, the level inside, up; joined with what came in, but at the outermost."""

    def __init__(self, layers: Sequence[nn.Module], *, outermost: bool = False) -> None:
        super().__init__()
        self.outermost = outermost
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + up, H, W), or an image at the outermost level."""
        translated = cast(Tensor, self.model(x))
        return translated if self.outermost else torch.cat([x, translated], 1)


class UnetGenerator(nn.Module):
    """The U-Net generator of pix2pix (Isola et al., 2017).

    (B, 3, H, W) -> (B, 3, H, W), both in [-1, 1]; H and W must be multiples of 2 to the number of
    levels (256 for the published eight). No layer works in place, so what a tap sees stays.

    Args:
        widths: ``UnetWidths.uniform(64)`` is the published teacher.
        norm: ``batch`` as in pix2pix.
    """

    scale = 1

    def __init__(self, widths: UnetWidths, *, norm: Norm = "batch") -> None:
        super().__init__()
        self.norm: Norm = norm
        self.model = _unet(widths, norm, (), ())

    @classmethod
    def from_spec(cls, spec: Spec) -> UnetGenerator:
        """The network of a specification, with fresh weights."""
        return cls(UnetWidths(**widths_from_json(spec["widths"])), norm=spec["norm"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "unet", "norm": self.norm, "widths": widths_to_json(self.widths)}

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 1 << len(_levels(self.model))

    @property
    def taps(self) -> tuple[str, ...]:
        """Layers that distillation looks at: two on the way down, two on the way up."""
        return _taps(len(_levels(self.model)), outermost="model.1", inside="model.3", up=4)

    @property
    def widths(self) -> UnetWidths:
        """The channels as they are now, read off the layers."""
        return _widths(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """Translate (B, 3, H, W) in [-1, 1] to the same."""
        return cast(Tensor, self.model(images))


class DeepestUnetGenerator(nn.Module):
    """The deeper U-Net teacher of OMGD (Ren et al., 2021): two expansion blocks down and two up.

    (B, 3, H, W) -> (B, 3, H, W) as `UnetGenerator`.

    Args:
        widths: ``DeepestUnetWidths.uniform`` of the student's width is the published one.
        norm: After every convolution but the outermost.
    """

    scale = 1

    def __init__(self, widths: DeepestUnetWidths, *, norm: Norm = "batch") -> None:
        super().__init__()
        self.norm: Norm = norm
        self.model = _unet(widths.plain, norm, widths.down_expansions, widths.up_expansions)

    @classmethod
    def from_spec(cls, spec: Spec) -> DeepestUnetGenerator:
        """The network of a specification, with fresh weights."""
        widths = widths_from_json(spec["widths"])
        plain = UnetWidths(**widths_from_json(widths.pop("plain")))
        return cls(DeepestUnetWidths(plain, **widths), norm=spec["norm"])

    @property
    def spec(self) -> Spec:
        """What `from_spec` takes."""
        return {"family": "deepest_unet", "norm": self.norm, "widths": widths_to_json(self.widths)}

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 1 << len(_levels(self.model))

    @property
    def taps(self) -> tuple[str, ...]:
        """The same places as in `UnetGenerator`."""
        return _taps(len(_levels(self.model)), outermost="model.3", inside="model.5", up=6)

    @property
    def widths(self) -> DeepestUnetWidths:
        """The channels as they are now, read off the layers."""
        expansions = [
            tuple(m.inner for m in level.model if isinstance(m, ExpansionBlock))
            for level in _levels(self.model)[:-1]
        ]
        down = tuple(four[:2] for four in expansions)
        return DeepestUnetWidths(_widths(self.model), down, tuple(four[2:] for four in expansions))

    def forward(self, images: Tensor) -> Tensor:
        """Translate (B, 3, H, W) in [-1, 1] to the same."""
        return cast(Tensor, self.model(images))


def _unet(
    widths: UnetWidths,
    norm: Norm,
    down_expansions: Sequence[Expansions],
    up_expansions: Sequence[Expansions],
) -> UnetBlock:
    """All levels, built from the inside out; without expansions the plain U-Net."""
    w, bias, make_norm = widths, has_bias(norm), norm_layer(norm)
    block: nn.Module = nn.Identity()
    for level in reversed(range(len(w.down))):
        innermost, outermost = level == len(w.down) - 1, level == 0
        inner, outer = w.down[level], 3 if outermost else w.up[level - 1]
        joined = inner if innermost else inner + w.up[level]
        narrow = nn.Conv2d(
            3 if outermost else w.down[level - 1], inner, 4, stride=2, padding=1, bias=bias
        )
        widen = nn.ConvTranspose2d(joined, outer, 4, stride=2, padding=1, bias=outermost or bias)
        down: list[nn.Module] = [narrow] if outermost else [nn.LeakyReLU(0.2), narrow]
        up: list[nn.Module] = [nn.ReLU(), widen, nn.Tanh() if outermost else make_norm(outer)]
        if innermost and not w.hollow:
            block = UnetBlock([*down, *up])
            continue
        if not outermost:
            down.append(make_norm(inner))
        if down_expansions and not innermost:
            down += [ExpansionBlock(inner, i, norm) for i in down_expansions[level]]
            behind = [
                ExpansionBlock(joined if outermost else outer, i, norm)
                for i in up_expansions[level]
            ]
            up = [*behind, *up] if outermost else [*up, *behind]
        block = UnetBlock([*down, block, *up], outermost=outermost)
    return cast(UnetBlock, block)


def _levels(outermost: UnetBlock) -> list[UnetBlock]:
    """The blocks from the outside in."""
    levels = [outermost]
    while inside := [m for m in levels[-1].model if isinstance(m, UnetBlock)]:
        levels += inside
    return levels


def _widths(outermost: UnetBlock) -> UnetWidths:
    levels = _levels(outermost)
    down, up = [], []
    for level in levels:
        down += [m.out_channels for m in level.model if isinstance(m, nn.Conv2d)]
        up += [m.out_channels for m in level.model if isinstance(m, nn.ConvTranspose2d)]
    hollow = any(isinstance(m, nn.Identity) for m in levels[-1].model)
    return UnetWidths(tuple(down), tuple(up[1:]), hollow)


def _taps(levels: int, *, outermost: str, inside: str, up: int) -> tuple[str, ...]:
    """The published places for eight levels; nearer to the surface where there are fewer.

    What enters level 2 and what enters the deepest of levels up to 4, on the way down; on the way
    up what leaves that one's inside, and what leaves level 2.
    """
    deep = min(4, levels - 1)
    prefix = [f"model.{outermost}" + f".{inside}" * below for below in range(deep)]
    return (
        f"{prefix[1]}.model.0",
        f"{prefix[deep - 1]}.model.0",
        f"{prefix[deep - 2]}.model.{up}",
        f"{prefix[0]}.model.{up}",
    )
