"""What a network remembers of its training images: the running statistics of its BatchNorms.

DDAD (Zhao et al., "Dual Discriminator Adversarial Distillation for Data-free Model Compression",
arXiv 2104.05382, 2021) asks that invented images leave the same statistics inside the teacher as
its training images did.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

Entering = tuple[Tensor, ...]
"""What enters layers, in the order of their names: (B, C, H, W) each."""


@dataclass(frozen=True)
class Remembered:
    """What one BatchNorm remembers, for each of its channels.

    Attributes:
        layer: Its name in the network.
        mean: Running mean of what enters it, (C,).
        deviation: Root of the running variance and the layer's epsilon, (C,).
        epsilon: The layer's; what it adds to variances.
    """

    layer: str
    mean: Tensor
    deviation: Tensor
    epsilon: float


def remembered(network: nn.Module) -> tuple[Remembered, ...]:
    """What the BatchNorms of a network learned of its training images, from the input on.

    A BatchNorm that only scales and shifts (``batch_statistics = "fixed"``) or has seen no image
    still has the mean 0 and the variance 1 it was made with: it remembers nothing and is left out.
    InstanceNorms never do.
    """
    found = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None or bool((mean == 0).all() and (variance == 1).all()):
            continue
        deviation = (variance.detach().float() + module.eps).sqrt()
        found.append(Remembered(name, mean.detach().float().clone(), deviation, module.eps))
    return tuple(found)


def forward_with_inputs(
    network: nn.Module, images: Tensor, layers: Sequence[str]
) -> tuple[Tensor, Entering]:
    """Run a network once; return its output and what entered the named layers.

    As `compress.features.forward_with_features`, on the other side of a layer: a BatchNorm's output
    is normalised already.

    Raises:
        KeyError: The network has no layer of that name, or the pass did not go through it.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]

        return hook

    with before(network, layers, keep):
        output = cast(Tensor, network(images))
    silent = [name for name in layers if name not in seen]
    if silent:
        raise KeyError(f"{type(network).__name__} did not run its layers {silent}")
    return output, tuple(seen[name] for name in layers)


def statistics_loss(entering: Entering, wanted: Sequence[Remembered]) -> Tensor:
    """How far statistics of a batch are from remembered ones; 0 where they are the same.

    For each channel the squared Frechet distance between two normal distributions, which is
    (difference of means)^2 + (difference of deviations)^2, in units of the remembered deviation;
    the mean over channels and layers. DDAD adds up squared differences of means and of variances.
    A network behind BatchNorm answers the same whatever its layers are scaled by, while those
    differences grow with the square and the fourth power of the scale, so that a single layer may
    weigh more than all others: hence the unit. And deviations, not variances, so that a channel
    that hardly varied on the training images does not outweigh the rest.

    Args:
        entering: From `forward_with_inputs`.
        wanted: Of the same layers.
    """
    distances = []
    for x, memory in zip(entering, wanted, strict=True):
        values = x.float().transpose(0, 1).flatten(1)  # (C, B * H * W)
        # a single value has no variance: of running ones it is the unbiased estimate otherwise
        variance = values.var(1, correction=min(1, values.shape[1] - 1))
        mean = memory.mean.to(values.device)
        deviation = memory.deviation.to(values.device)
        shift = (values.mean(1) - mean) / deviation
        stretch = (variance + memory.epsilon).sqrt() / deviation - 1
        distances.append((shift**2 + stretch**2).mean())
    return torch.stack(distances).mean()


@contextlib.contextmanager
def before(
    network: nn.Module,
    layers: Sequence[str],
    hook: Callable[[str], Callable[[nn.Module, tuple[Tensor, ...]], object]],
) -> Iterator[None]:
    """Hooks in front of layers, inside the block; ``hook`` makes the one of a layer from its name.

    Raises:
        KeyError: The network has no layer of that name.
    """
    known = dict(network.named_modules())
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise KeyError(f"{type(network).__name__} has no layers {unknown}")
    handles = [known[name].register_forward_pre_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
