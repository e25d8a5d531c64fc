"""What a network costs as a function of a mask: exact where the mask is hard, with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress.models.modes import evaluating
from compress.pruning.gating import Gated, switches


@dataclass(frozen=True)
class Layer:
    """What one convolution, or linear layer, does for one image.

    Attributes:
        per_pair: Multiply-accumulates for each pair of a channel it reads and one it makes.
        pixels: Numbers it writes for each channel it makes.
        read: Where in a mask that is followed by a single one its input channels are decided.
        made: The same of its output channels.
        depthwise: Whether every channel it makes reads one channel only; ``read`` is one then.
    """

    per_pair: float
    pixels: int
    read: Tensor
    made: Tensor
    depthwise: bool


@dataclass(frozen=True)
class Limit:
    """What a network may cost: for the agents, who need a gradient, and for the pruning itself.

    Attributes:
        key: The unit: multiply-accumulates, or milliseconds per image.
        goal: The most it may cost.
        expected: From a mask to a scalar with a graph.
        reached: From a hard mask to what the network costs without the channels that are 0.
    """

    key: Literal["macs", "latency_ms"]
    goal: float
    expected: Callable[[Tensor], Tensor]
    reached: Callable[[Tensor], float]


def macs_limit(gated: Gated, reduction: float, *, image_size: int, channels: int = 3) -> Limit:
    """So many times fewer true MACs than the whole network, at an input of ``image_size`` pixels.

    Args:
        gated: The network.
        reduction: How many times fewer; above 1.
        image_size: Height and width of the input.
        channels: Of the input.
    """
    layers = layers_of(gated, image_size=image_size, channels=channels)
    whole = float(macs(layers, everything(gated)))
    return Limit(
        "macs",
        whole / reduction,
        expected=lambda mask: macs(layers, mask),
        reached=lambda mask: float(macs(layers, mask)),
    )


def layers_of(gated: Gated, *, image_size: int, channels: int = 3) -> tuple[Layer, ...]:
    """All convolutions and linear layers of a network, in the order they run.

    Args:
        gated: The network.
        image_size: Height and width of the input, in pixels.
        channels: Of the input.
    """
    network = gated.network
    places = switches(network, gated.structure)
    one = torch.tensor([len(everything(gated))])
    layers: list[Layer] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Linear):
                layers.append(Layer(module.weight.numel(), module.out_features, one, one, False))
                return
            assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            pixels = output[0, 0].numel()
            transposed = isinstance(module, nn.ConvTranspose2d)
            # a transposed convolution is charged where it works: at its input
            area = module.weight[0, 0].numel() * (inputs[0][0, 0].numel() if transposed else pixels)
            depthwise = 1 < module.groups == module.in_channels == module.out_channels
            if depthwise:
                made = places.get((name, "through"), one.expand(module.out_channels))
                layers.append(Layer(area, pixels, one, made, True))
                return
            read = places.get((name, "in"), one.expand(module.in_channels))
            made = places.get((name, "out"), one.expand(module.out_channels))
            layers.append(Layer(area / module.groups, pixels, read, made, False))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    try:
        # "meta" tensors have a shape and no numbers
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
        with evaluating(network), torch.no_grad():
            image = torch.zeros(1, channels, image_size, image_size, device="meta")
            functional_call(network, shapes, (image,))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(layers)


def macs(layers: Sequence[Layer], mask: Tensor) -> Tensor:
    """True multiply-accumulates of the network that a mask leaves.

    Exactly those of `compress.macs.cost` where the mask is hard.

    Args:
        layers: Of the network.
        mask: (channels of all couplings,).

    Returns:
        A scalar, float64, with the mask's graph.
    """
    numbers = followed_by_one(mask)
    return torch.stack([work(layer, numbers) for layer in layers]).sum()


def work(layer: Layer, numbers: Tensor) -> Tensor:
    """Multiply-accumulates of one layer; ``numbers`` is from `followed_by_one`."""
    read, made = (active(index, numbers) for index in (layer.read, layer.made))
    return layer.per_pair * read * made


def active(index: Tensor, numbers: Tensor) -> Tensor:
    """How many of a layer's channels are there."""
    return numbers.index_select(0, index.to(numbers.device)).sum()


def followed_by_one(mask: Tensor) -> Tensor:
    """A mask as layers index it: with a one for channels that nobody can switch off, float64."""
    return torch.cat([mask.double(), torch.ones(1, dtype=torch.float64, device=mask.device)])


def everything(gated: Gated) -> Tensor:
    """The mask that leaves all channels where they are."""
    return torch.ones(sum(coupling.channels for coupling in gated.structure.couplings))
