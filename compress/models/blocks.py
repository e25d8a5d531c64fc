"""What the generator families are made of: norms, blocks, first weights, widths as JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor, nn

Norm = Literal["batch", "instance", "affine_instance"]
"""``instance`` has no weights, as in CycleGAN; ``affine_instance`` has, which a pruner can rank."""

Spec = dict[str, Any]
"""JSON that rebuilds a network: its family and what the family's constructor takes."""

Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class SelfInitializing(Protocol):
    """A network that the N(0, 0.02) of the image-to-image papers does not suit."""

    def draw_weights(self) -> None:
        """Draw the weights an untrained network of this family starts with."""


class ExpansionBlock(nn.Module):
    """The bottleneck of OMGD's deeper teachers: 1x1 out, 3x3, 1x1 back, 3x3, and a sum.

    The first padding stands before the 1x1 convolution, as published, so that the first half works
    on one more pixel at each side.

    Args:
        stream: Channels in and out.
        inner: Channels after the first three convolutions; published: 4x, 4x and 1x ``stream``.
        norm: After every convolution.
    """

    def __init__(self, stream: int, inner: tuple[int, int, int], norm: Norm) -> None:
        super().__init__()
        bias, make_norm = has_bias(norm), norm_layer(norm)
        wide, middle, narrow = inner
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(stream, wide, 1, bias=bias),
            make_norm(wide),
            nn.ReLU(),
            nn.Conv2d(wide, middle, 3, bias=bias),
            make_norm(middle),
            nn.ReLU(),
            nn.Conv2d(middle, narrow, 1, bias=bias),
            make_norm(narrow),
            nn.ReLU(),
            nn.Identity(),  # published: a Dropout that never drops
            nn.ReflectionPad2d(1),
            nn.Conv2d(narrow, stream, 3, bias=bias),
            make_norm(stream),
        )

    @property
    def inner(self) -> tuple[int, int, int]:
        """Channels after the first three convolutions, as they are now."""
        wide, middle, narrow, _ = (m for m in self.conv_block if isinstance(m, nn.Conv2d))
        return wide.out_channels, middle.out_channels, narrow.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Shape-preserving: (B, C, H, W) -> (B, C, H, W)."""
        return x + cast(Tensor, self.conv_block(x))


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """The normalisation a family was published with."""
    if norm == "batch":
        return nn.BatchNorm2d
    return functools.partial(nn.InstanceNorm2d, affine=norm == "affine_instance")


def has_bias(norm: Norm) -> bool:
    """Whether a convolution before this norm has a bias: the published rule, for loading's sake."""
    return norm != "batch"


def evenly_spaced(count: int, wanted: int = 4) -> tuple[int, ...]:
    """Indices of at most ``wanted`` of ``count`` blocks, the last always: 16 -> 3, 7, 11, 15."""
    return tuple(sorted({-(-count * (k + 1) // wanted) - 1 for k in range(wanted)} - {-1}))


def widths_to_json(widths: Any) -> dict[str, Any]:
    """A dataclass of ints and tuples as JSON makes them: lists for tuples."""
    return cast(dict[str, Any], _lists(asdict(widths)))


def widths_from_json(widths: Any) -> dict[str, Any]:
    """The reverse, as keyword arguments for the dataclass.

    Raises:
        TypeError: Not a JSON object.
    """
    if not isinstance(widths, dict):
        raise TypeError(f"widths are {widths!r}")
    return {name: _tuples(value) for name, value in widths.items()}


def initialize(network: Network) -> Network:
    """Draw fresh weights, as the family's papers do.

    N(0, 0.02) for convolutions and linear layers, N(1, 0.02) for norm scales, zero biases; the
    super-resolution families bring their own.
    """
    if isinstance(network, SelfInitializing):
        network.draw_weights()
        return network
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d) or (
            isinstance(module, nn.InstanceNorm2d) and module.affine
        ):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def draw_he(module: nn.Module, *, slope: float, scale: float = 1.0) -> None:
    """He initialization of every convolution inside, for activations of that negative slope.

    Args:
        module: Convolutions inside get fresh weights; biases become 0.
        slope: Of the (leaky or parametric) ReLUs between them.
        scale: Multiplies the weights; below 1 for branches that are added to something.
    """
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.kaiming_normal_(convolution.weight, a=slope)
            convolution.weight.data.mul_(scale)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(inner) for name, inner in value.items()}
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
