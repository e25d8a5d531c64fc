"""A generator as INT8 computes it, made of the float generator's own weights.

Weights and inputs of a layer are rounded to the values that 8 bits leave, and computed in float:
what comes out is what integers give, and a gradient passes the rounding as if it were not there
(straight through; Bengio et al., 2013). The rounding is that of the devices, not GHOST's (DoReFa's
tanh, ranges fixed to [0, 1]), which no INT8 runtime has.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Conv2d | nn.ConvTranspose2d
"""What runs on integers where a device has them."""

WEIGHT_STEPS = 127
"""Of a channel's largest weight: values go from -127 to 127, zero is one of them."""

INPUT_STEPS = 255
"""From the lowest to the highest value of an input."""

TINY = 1e-12
"""A step for what is zero everywhere."""


def quantizable(network: nn.Module) -> dict[str, Layer]:
    """The layers that could run in INT8, by their names, in the order of the modules."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    }


def channel_axis(layer: Layer) -> int:
    """The dimension of a layer's weights that counts its output channels."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def round_weights(weight: Tensor, axis: int) -> Tensor:
    """Weights as INT8 holds them: symmetric, a scale for each output channel.

    A norm that is folded into the layer later multiplies channels, and so changes nothing here.

    Args:
        weight: (O, I, kH, kW), or (I, O, kH, kW) where the layer is transposed.
        axis: Of the output channels.
    """
    others = [dimension for dimension in range(weight.ndim) if dimension != axis]
    step = weight.detach().abs().amax(others, keepdim=True) / WEIGHT_STEPS
    return _straight_through(weight, _steps(weight, step) * step)


def round_inputs(x: Tensor) -> Tensor:
    """Activations as UINT8 holds them: one scale and one zero point, from the extremes at hand.

    The extremes are those of this batch: there is nothing to calibrate, to save, or to agree on
    between processes. Deploy takes its own from calibration images.

    Args:
        x: (B, C, H, W). Zero stays zero, so that padding stays what it is.
    """
    low, high = torch.aminmax(x.detach())
    return _straight_through(x, between(x, low.clamp(max=0), high.clamp(min=0)))


def between(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The values of 8 bits that are nearest, with a zero point; what is outside is cut off.

    Args:
        x: Of any shape; no gradient passes.
        low: The lowest value, 0 or less.
        high: The highest, 0 or more.
    """
    step = (high - low) / INPUT_STEPS
    zero = -_steps(low, step)
    steps = (_steps(x, step) + zero).clamp(0, INPUT_STEPS)
    return (steps - zero) * step


class Int8Conv2d(nn.Conv2d):
    """A convolution in fake INT8 that shares the parameters of a float one."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            _pair(layer.dilation),
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",  # its own weights are never looked at
        )
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        weight = round_weights(self.weight, channel_axis(self))
        result: Tensor = self._conv_forward(round_inputs(input), weight, self.bias)
        return result


class Int8ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution in fake INT8 that shares the parameters of a float one."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            _pair(layer.kernel_size),
            _pair(layer.stride),
            _pair(layer.padding),
            _pair(layer.output_padding),
            layer.groups,
            layer.bias is not None,
            _pair(layer.dilation),
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W').

        Raises:
            ValueError: An output size, which no generator gives.
        """
        if output_size is not None:
            raise ValueError(
                f"a layer in fake INT8 takes no output_size, got {output_size}: give the layer an "
                "output_padding"
            )
        result: Tensor = F.conv_transpose2d(
            round_inputs(input),
            round_weights(self.weight, channel_axis(self)),
            self.bias,
            _pair(self.stride),
            _pair(self.padding),
            _pair(self.output_padding),
            self.groups,
            _pair(self.dilation),
        )
        return result


def int8_twin(generator: nn.Module, layers: Collection[str]) -> nn.Module:
    """The same generator with some layers in fake INT8, and the very parameters of the other.

    Who moves the twin's weights moves the generator's. Names, specification and taps are the same,
    too, and so is every layer that is not rounded.

    Args:
        generator: Not changed.
        layers: Names of those to round, of `quantizable`.

    Raises:
        ValueError: A name that is no such layer.
    """
    known = quantizable(generator)
    unknown = sorted(set(layers) - set(known))
    if unknown:
        raise ValueError(
            f"{type(generator).__name__} has no layers {unknown} to round; it has "
            f"{', '.join(known) or 'none'}"
        )
    chosen = {id(known[name]) for name in layers}
    made: dict[int, nn.Module] = {}

    def twin(module: nn.Module) -> nn.Module:
        if id(module) not in made:
            made[id(module)] = _rounded(module) if id(module) in chosen else around(module)
        return made[id(module)]

    def around(module: nn.Module) -> nn.Module:
        if not module._modules:
            return module
        same = copy.copy(module)  # shares everything but the layers below it
        same._modules = {
            name: None if child is None else twin(child) for name, child in module._modules.items()
        }
        return same

    return twin(generator)


def _rounded(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.ConvTranspose2d):
        return Int8ConvTranspose2d(module).train(module.training)
    return Int8Conv2d(cast(nn.Conv2d, module)).train(module.training)


def _steps(x: Tensor, step: Tensor) -> Tensor:
    return torch.round(x.detach() / step.clamp_min(TINY))


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    return x + (rounded - x).detach()


def _pair(size: str | tuple[int, ...]) -> tuple[int, int]:
    return cast(tuple[int, int], size)
