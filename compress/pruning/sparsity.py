"""GCC's first stage: train with a penalty that pushes whole channels to zero.

Li et al., NeurIPS 2021, after network slimming (Liu et al., 2017). Every step adds lambda * sign(w)
to the gradient of the numbers that stand for channels. That is the gradient of lambda * sum |w|, so
here it is a loss like any other: named, logged, and seen by whatever computes gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from compress.loop import Losses, Method, Outputs, Update
from compress.pruning.importance import SCALED, scales
from compress.pruning.structure import Coupling, Member, Structure

Sparse = Literal["scales", "weights"]
"""What stands for a channel: the scale of its norm (the paper's choice where there is BatchNorm),
or the weights of its filter (where norms have no scales, as a CycleGAN's)."""

Standing = tuple[Tensor | None, ...]
"""For every coupling how much each channel stands out, (channels,), comparable with those of every
other coupling; None where nothing stands for the channels of a coupling."""

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)

Part = Callable[[nn.Module, Member], Tensor | None]


def sparse(method: Method, name: str, network: nn.Module, *, kind: Sparse, weight: float) -> Method:
    """The same method, with one more loss, ``sparsity``, in the updates of one network.

    Args:
        method: How the network is trained.
        name: Of the network (or of the one that it is a part of) in the method.
        network: Whose channels are to become few.
        kind: What is pushed to zero.
        weight: The paper's lambda: 1e-2 for scales, 1e-3 for weights.

    Raises:
        ValueError: The network has no such numbers, or the method no such network.
    """
    if not any(update.network == name for update in method.updates):
        raise ValueError(f"this method trains {sorted(method.networks)}, and no {name!r}")
    pushed = _pushed(network, kind)

    def with_penalty(update: Update) -> Update:
        def objective(outputs: Outputs) -> Losses:
            penalty = torch.stack([x.float().abs().sum() for x in pushed]).sum()
            return {**update.objective(outputs), "sparsity": weight * penalty}

        return replace(update, objective=objective)

    return replace(
        method, updates=[with_penalty(u) if u.network == name else u for u in method.updates]
    )


@torch.no_grad()
def standing(network: nn.Module, structure: Structure, kind: Sparse) -> Standing:
    """How much every channel stands out after `sparse` training.

    Scales: the largest of the norms that a channel goes through, so that a channel of a residual
    stream stays if any layer keeps it. Weights: the mean of the layers that make it, as GCC has it
    for unpaired data; and of the filter, not its sum, since fresh weights are drawn alike in all
    layers and a sum would say how many weights there are. Depthwise filters are not asked, nor the
    layer that makes the image.

    Raises:
        ValueError: Nothing in the network stands for channels.
    """
    found = tuple(
        _largest(network, c) if kind == "scales" else _mean(network, c) for c in structure.couplings
    )
    if all(scores is None for scores in found):
        raise ValueError(_nothing(network, kind))
    return found


def _pushed(network: nn.Module, kind: Sparse) -> list[Tensor]:
    pushed = [
        module.weight
        for module in network.modules()
        if (isinstance(module, SCALED) and module.affine and kind == "scales")
        or (isinstance(module, CONVOLUTIONS) and module.groups == 1 and kind == "weights")
    ]
    if not pushed:
        raise ValueError(_nothing(network, kind))
    return pushed


def _nothing(network: nn.Module, kind: Sparse) -> str:
    cure = "by = 'scales'"
    if kind == "scales":
        cure = "norm = 'batch' or 'affine_instance', or by = 'weights'"
    return f"{type(network).__name__} has no {kind} that could be pushed to zero: take {cure}"


def _largest(network: nn.Module, coupling: Coupling) -> Tensor | None:
    values = _values(network, coupling, scales)
    return torch.stack(values).amax(0) if values else None


def _mean(network: nn.Module, coupling: Coupling) -> Tensor | None:
    values = _values(network, coupling, _filters)
    return torch.stack(values).mean(0) if values else None


def _values(network: nn.Module, coupling: Coupling, part: Part) -> list[Tensor]:
    """What each layer says of the channels of a coupling that go through it, (channels,) each."""
    found = []
    for member in coupling.members:
        said = part(network.get_submodule(member.layer), member)
        if said is None:
            continue
        values = [0.0] * coupling.channels
        # before a pixel shuffle a channel is several: the strongest of them speaks
        for position, channel in zip(member.positions, member.channels, strict=True):
            values[position] = max(values[position], float(said[channel]))
        found.append(torch.tensor(values))
    return found


def _filters(layer: nn.Module, member: Member) -> Tensor | None:
    if member.side != "out" or not isinstance(layer, CONVOLUTIONS):
        return None
    # filters first, except where a convolution is transposed
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.transpose(0, 1) if transposed else layer.weight
    return weight.flatten(1).abs().mean(1).cpu()
