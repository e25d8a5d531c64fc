"""What a network costs: multiply-accumulates in both conventions, and parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Attributes:
        params: Parameters.
        macs: Multiply-accumulates of the convolutions that are really done.
        macs_published: The same with a transposed convolution charged at its output resolution,
            as torchprofile and thop do and the papers therefore report: stride squared too many.
    """

    params: int
    macs: int
    macs_published: int


def cost(network: nn.Module, image_size: int, *, channels: int = 3) -> Cost:
    """Count one pass over a (1, channels, image_size, image_size) image."""
    counts = {"macs": 0, "published": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        kernel = module.weight[0, 0].numel()
        per_pixel = module.in_channels * module.out_channels // module.groups * kernel
        at_output = per_pixel * output[0, 0].numel()
        counts["published"] += at_output
        transposed = isinstance(module, nn.ConvTranspose2d)
        counts["macs"] += per_pixel * inputs[0][0, 0].numel() if transposed else at_output

    handles = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            # "meta" images would be free, but padding layers refuse them for some networks
            network(torch.zeros(1, channels, image_size, image_size))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    params = sum(p.numel() for p in network.parameters())
    return Cost(params, counts["macs"], counts["published"])
