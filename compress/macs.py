"""What a network costs: multiply-accumulates in both conventions, and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

Counted = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.InstanceNorm2d


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Attributes:
        params: Parameters.
        macs: Multiply-accumulates of the convolutions and linear layers that are really done.
        macs_published: The same with a transposed convolution charged at its output resolution,
            as torchprofile and thop do and the papers therefore report: stride squared too many.
        instance_norm: Output elements of instance norms, which torchprofile (and so GAN
            Compression) counts as one each.
    """

    params: int
    macs: int
    macs_published: int
    instance_norm: int = 0

    @property
    def macs_torchprofile(self) -> int:
        """What torchprofile prints: the published convention and the instance norms."""
        return self.macs_published + self.instance_norm


def cost(network: nn.Module, image_size: int | tuple[int, int], *, channels: int = 3) -> Cost:
    """Count one pass over an image. Nothing is computed, so no network is too big for this.

    Args:
        network: Takes (1, channels, H, W).
        image_size: H and W of the *input*, px, or the one number that both are. What a network
            that upscales makes of it is larger.
        channels: 3, or 6 for a discriminator that judges a pair.
    """
    counts = {"macs": 0, "published": 0, "instance_norm": 0}
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    handles = [
        module.register_forward_hook(_counter(counts))
        for module in network.modules()
        if isinstance(module, Counted)
    ]
    training = network.training
    network.eval()
    try:
        # "meta" tensors have a shape and no numbers
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
        image = torch.zeros(1, channels, height, width, device="meta")
        with torch.no_grad():
            functional_call(network, shapes, (image,))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    params = sum(p.numel() for p in network.parameters())
    return Cost(params, counts["macs"], counts["published"], counts["instance_norm"])


def _counter(
    counts: dict[str, int],
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that adds what a layer does to ``counts``."""

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.InstanceNorm2d):
            counts["instance_norm"] += output.numel()
            return
        if isinstance(module, nn.Linear):
            counts["macs"] += module.weight.numel()
            counts["published"] += module.weight.numel()
            return
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        kernel = module.weight[0, 0].numel()
        per_pixel = module.in_channels * module.out_channels // module.groups * kernel
        at_output = per_pixel * output[0, 0].numel()
        counts["published"] += at_output
        transposed = isinstance(module, nn.ConvTranspose2d)
        counts["macs"] += per_pixel * inputs[0][0, 0].numel() if transposed else at_output

    return count
